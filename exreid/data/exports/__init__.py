"""Answers and known animals in the files of other programs."""
