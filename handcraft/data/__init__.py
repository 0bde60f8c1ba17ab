"""Stores, importers, preprocessing and batches."""
