"""Identify individual animals by image retrieval, and measure honestly how well it works."""

__version__ = "0.1.0"
