"""What exreid knows, in the files of other programs."""
