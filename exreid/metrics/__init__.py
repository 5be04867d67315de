"""From scores to rankings, and from rankings to numbers with their uncertainty."""
