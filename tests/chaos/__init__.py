"""Runs killed at random moments and run again: the numbers must be those of a quiet run.

``make chaos N=100`` kills as many as asked; the slow tests kill 12 and fill two disks. One kill is
named by its scene, the seed and a number: ``python -m tests.chaos --scene add --only 3 --keep``.
"""
