"""Known or new: what is decided of a query, and which new images show one animal."""
