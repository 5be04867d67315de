"""Data sets: metadata, splits, masks, images, and synthetic ones."""
