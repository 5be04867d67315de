"""Deciding whether a query's animal is known or new, and grouping the new ones."""
