"""Clips as pictures, videos and web pages."""
