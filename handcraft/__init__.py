"""handcraft: synthetic sign generation and sign recognition."""

__version__ = "0.1.0"
