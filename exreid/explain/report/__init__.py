"""The pages of a report: static HTML that opens from disk, made from plain content."""
