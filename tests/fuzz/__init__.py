"""Mutated inputs at every entry point: what must hold is that nothing fails without words.

``make fuzz N=20000`` runs this with as many cases as asked; the suite runs 600. A case is named
by its kind, the seed and a number, and can be run again alone:
``python -m tests.fuzz --kind tables --seed 0 --only 17 --keep``.
"""
