"""Matching the pairs of a run, in this process or over actors, and counting them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from exreid.distributed.placement import Placement
from exreid.matching.cascade import STAGE_COUNTS, MakeMatcher
from exreid.matching.tiles import Answer, Ask, FeaturesOf, PairMatcher, Tile, match_in_process
from exreid.records import Counts

if TYPE_CHECKING:
    # Ray takes seconds to import: it is left to those who use actors.
    from exreid.distributed.match import ActorPool


@dataclass
class MatchingTally:
    """The counts of a run's matching, over all its stages."""

    pairs: dict[str, int] = field(default_factory=dict)
    """Pairs of each stage, by its name."""
    pairs_known: int = 0
    actors_lost: int = 0
    wait_share: float | None = None
    asked: dict[str, list[np.ndarray]] | None = None
    """The words of all pairs that were asked for (see `exreid.storage.pair_store.pair_words`), by
    the name of their store; None: they are not noted."""

    index: Counts = field(default_factory=dict)
    """How the index of descriptors was searched."""

    def counts(self) -> Counts:
        """For the result."""
        counts: Counts = {
            count: self.pairs[stage] for count, stage in STAGE_COUNTS.items() if stage in self.pairs
        }
        counts |= self.index
        counts["pairs_known"] = self.pairs_known
        if self.actors_lost:
            counts["actors_lost"] = self.actors_lost
        if self.wait_share is not None:
            counts["actors_wait_share"] = round(self.wait_share, 4)
        return counts


class Matchers:
    """Matches the pairs of a run, in this process or over actors.

    A matcher stays up for the next pairs of the same stage. Actors of another stage end first,
    since each takes CPUs or a GPU. The caller closes it.
    """

    def __init__(self, placement: Placement | None, tally: MatchingTally) -> None:
        self.placement, self.tally = placement, tally
        self._own: dict[MakeMatcher, PairMatcher] = {}
        self._actors_for: tuple[MakeMatcher, FeaturesOf] | None = None
        self._actors: list[ActorPool] = []

    @property
    def device(self) -> str:
        """The torch device of each matcher."""
        return self.placement.device if self.placement else "cpu"

    def run(
        self,
        tiles: Iterator[Tile],
        make: MakeMatcher,
        ask: Ask[Answer],
        features_of: FeaturesOf,
        *,
        failed: list[tuple[Tile, str]],
    ) -> Iterator[tuple[Tile, Answer]]:
        """Each tile with the matcher's answer, in any order; tiles that were given up are added to
        ``failed``, with the reason."""
        if self.placement is None:
            if make not in self._own:
                self._own[make] = make()
            yield from match_in_process(
                tiles, self._own[make], ask, queries=features_of, gallery=features_of
            )
            return
        from exreid.distributed.match import MatchReport, match_over_actors

        if self._actors_for != (make, features_of):
            self.close()
            self._actors_for = (make, features_of)
        report = MatchReport()
        yield from match_over_actors(
            tiles,
            make,
            ask,
            queries=features_of,
            gallery=features_of,
            placement=self.placement,
            report=report,
            keep=self._actors,
        )
        failed.extend(report.failed)
        self.tally.actors_lost += report.actors_lost
        self.tally.wait_share = report.wait_share

    def close(self) -> None:
        """End the actors."""
        for pool in self._actors:
            pool.stop()
        self._actors.clear()
