"""Review by a person: what is believed of each pair of visits, which animals follow, what to ask.

Plain functions on arrays; only `decisions` knows files.
"""
