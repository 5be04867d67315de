"""Which flanks visits show, and how many animals groups can be where flanks are not joined.

Letters: V visits, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exreid.metrics.population import LEFT, RIGHT

LEFT_FLANK, RIGHT_FLANK = 1, 2


def flanks_of(views_V: Sequence[Sequence[str | None]]) -> np.ndarray:
    """By the viewpoints of each visit's photographs: 1 the left flank alone, 2 the right alone, 3
    both, int64 (V,). 0 where it may be either: a photograph's viewpoint is missing or another one.
    If all photographs have one and the same viewpoint, whatever it is, there is nothing to join: 1.

    >>> flanks_of([["left"], ["left", "Right"], ["right", None], ["front"]]).tolist()
    [1, 3, 0, 0]
    >>> flanks_of([["fluke"], ["fluke", "fluke"]]).tolist()
    [1, 1]
    """
    words_V = [{(view or "").strip().lower() for view in views} for views in views_V]
    if len(one := set[str]().union(*words_V)) == 1 and "" not in one:
        return np.full(len(words_V), LEFT_FLANK, np.int64)
    found = []
    for words in words_V:
        shown = LEFT_FLANK * bool(words & LEFT) + RIGHT_FLANK * bool(words & RIGHT)
        found.append(shown if shown == 3 or words <= LEFT | RIGHT else 0)
    return np.array(found, np.int64)


def flanks_of_groups(flank_V: np.ndarray, group_V: np.ndarray) -> np.ndarray:
    """The flanks that any visit of each group shows, as `flanks_of`, int64 (G,)."""
    flank_G = np.zeros(int(group_V.max(initial=-1)) + 1, np.int64)
    np.bitwise_or.at(flank_G, group_V, flank_V)
    return flank_G


def fewest_animals(flank_V: np.ndarray, group_V: np.ndarray) -> int:
    """The least number of animals that these groups can be, if an animal whose flanks no visit
    joins is two of them: as many as show the flank with more groups, and at least half of all.

    >>> fewest_animals(np.array([1, 1, 3, 2]), np.array([0, 1, 2, 3]))
    3
    """
    flank_G = flanks_of_groups(flank_V, group_V)
    of_flanks = [int(np.count_nonzero(flank_G & flank)) for flank in (LEFT_FLANK, RIGHT_FLANK)]
    return max(*of_flanks, -(-len(flank_G) // 2))
