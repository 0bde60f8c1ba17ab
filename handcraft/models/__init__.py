"""The generator and the two classifiers."""
