"""Each run told from top to bottom, and what it writes."""
