"""Backbones: networks that turn an image into a vector."""
