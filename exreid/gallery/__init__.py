"""The folder of known animals: made, added to, opened and asked."""
