"""The kinds of input: each makes one case of a seed, runs it, and returns what is wrong.

A case returns a list of lines; an empty one is a case that held.
"""

from tests.fuzz.config_kinds import configs, overrides
from tests.fuzz.data_kinds import images, masks, photographs, tables
from tests.fuzz.foreign_kinds import foreign
from tests.fuzz.stored_kinds import caches, checkpoints, galleries, runs

KINDS = {
    "configs": (configs, 14),
    "overrides": (overrides, 20),
    "tables": (tables, 12),
    "foreign": (foreign, 8),
    "images": (images, 12),
    "masks": (masks, 12),
    "checkpoints": (checkpoints, 7),
    "caches": (caches, 3),
    "runs": (runs, 6),
    "galleries": (galleries, 4),
    "photographs": (photographs, 2),
}
"""Each kind and its share of the cases."""
