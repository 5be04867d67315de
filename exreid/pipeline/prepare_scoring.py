"""A table's features and the methods that score pairs of its images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from exreid.config.probe import ProbeConfig
from exreid.distributed.placement import Placement
from exreid.distributed.session import one_ray
from exreid.matching.plausibility_gate import Gate
from exreid.pipeline.embed import Features, StoredFeatures, embed
from exreid.pipeline.keypoints import find_keypoints, matching_placement
from exreid.pipeline.match import LocalMethod, local_methods
from exreid.pipeline.matchers import Matchers, MatchingTally
from exreid.pipeline.plausibility_gate import gate_of
from exreid.progress import RunLog
from exreid.records import ImageTable


@dataclass(frozen=True)
class Scoring:
    """A table's features and the methods that match its images: all that pair scores need."""

    config: ProbeConfig
    features: Features
    local: tuple[LocalMethod, ...]
    log: RunLog
    matching: MatchingTally
    """Counts the matched pairs."""
    gate: Gate | None = None
    """Which candidates are implausible; None without benchmark.gate."""


def scoring_of(
    features: Features,
    config: ProbeConfig,
    placement: Placement | None,
    *,
    folder: Path,
    log: RunLog,
    stack: ExitStack,
    known_pairs: Path | None = None,
    note_pairs: bool = False,
) -> Scoring:
    """Scores pairs of these images, as long as ``stack`` is open. ``folder`` is the run's, where
    pairs that cannot be matched are listed; ``known_pairs`` is a folder of known evidence besides
    the cache. With ``note_pairs`` the tally lists all pairs that were asked for."""
    matching = MatchingTally(asked={} if note_pairs else None)
    matchers = Matchers(placement, matching)
    stack.callback(matchers.close)
    local = local_methods(
        features,
        config,
        matchers,
        folder=folder,
        progress=log.progress,
        tally=matching,
        known_pairs=known_pairs,
    )
    return Scoring(config, features, local, log, matching, gate_of(features.table, config))


def images_scored(
    table: ImageTable,
    config: ProbeConfig,
    stack: ExitStack,
    *,
    folder: Path,
    log: RunLog,
    stored: StoredFeatures | None = None,
) -> Scoring:
    """`scoring_of` for all that can be read of the table's images, whose features are made here;
    the first images are those of ``stored``. Ray is up as long as ``stack`` is open."""
    stack.enter_context(one_ray())
    features = embed(table, config, log, stored=stored)
    images = len(features.table)
    placement = matching_placement(config, stack, images=images, verbose=log.verbose)
    features = find_keypoints(features, config, placement, log, stored=stored)
    return scoring_of(features, config, placement, folder=folder, log=log, stack=stack)
