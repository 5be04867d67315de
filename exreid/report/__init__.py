"""Pages, comparisons and contact sheets, made of what runs have written."""
