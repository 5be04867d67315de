"""Photographs grouped into animals without names: exreid discover against scikit-learn.

Every way gets the same probabilities of the same pairs of visits. The curve, the cut and the
settings of the others are chosen on other animals than the figures are of: on generated ones and,
with --root, on half of that data set's animals; measured on other generated ones and on the other
half. HDBSCAN's visits without a group are each a group. With --ship the curve and the cut are
written to the file that comes with the install, from the animals that they are chosen on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from _report import Report, data_parser
from sklearn.cluster import HDBSCAN, AgglomerativeClustering

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes
from exreid.data.synthetic import write_dataset
from exreid.gallery.photo_table import PhotoOptions
from exreid.gallery.unknown import read_unknown
from exreid.metrics.partitions import grouping_metrics
from exreid.openset.fit_grouping import (
    NamedPairs,
    VisitGrouping,
    count_animals,
    fit_visit_grouping,
)
from exreid.openset.group_visits import group_visits
from exreid.pipeline.discover import named_pairs, score_visits, scored_by
from exreid.pipeline.prepare_scoring import images_scored
from exreid.progress import RunLog, no_progress
from exreid.runs.discover import discover_config

IMAGES_OF_EACH = 8
SEEDS = {"fitted": 101, "measured": 202}
FITTED_IDENTITIES = 30
DISTANCES = np.unique(
    np.concatenate([np.linspace(0.02, 0.98, 49), 1 - np.geomspace(1e-3, 0.1, 12)])
)
MIN_SAMPLES = (1, 2, 3, 5)

Cluster = Callable[[np.ndarray, float], np.ndarray]
"""From distances (V, V) and a setting to a group for each visit."""


@dataclass(frozen=True)
class NamedVisits:
    """The scored visits of animals with names."""

    pairs: NamedPairs

    def measured(self, group_V: np.ndarray) -> dict[str, float]:
        """The figures of these groups, over images."""
        one = self.pairs
        truth_N, group_N = (np.repeat(c, one.images_V) for c in (one.identity_V, group_V))
        return grouping_metrics(truth_N, group_N)

    def distances(self, grouping: VisitGrouping) -> np.ndarray:
        """One less the probability of each pair; 1 where a pair has none."""
        visits, (first, second) = len(self.pairs.photo_V), self.pairs.pairs.visit_P2.T
        distance_VV = np.ones((visits, visits))
        distance_VV[first, second] = 1 - grouping.curve.apply(self.pairs.pairs.score_P)
        distance_VV[second, first] = distance_VV[first, second]
        np.fill_diagonal(distance_VV, 0)
        return distance_VV


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--identities", type=int, nargs="+", default=[30],
        help="of the generated sets that are measured")  # fmt: skip
    parser.add_argument("--name", default="real animals", help="what --root shows, in words")
    parser.add_argument("--ship", type=Path, help="also write the grouping to this file")
    return parser.parse_args()


def scored(config: ProbeConfig, name: str, half: int | None = None) -> NamedVisits:
    """The visits of all animals, or of each second one, scored among themselves."""
    config = discover_config(config)
    table = read_unknown(config, PhotoOptions(), taken=set()).table
    identity_N, _ = codes(table.rows["identity"].tolist(), [])
    table = table.take(
        np.flatnonzero((identity_N >= 0) & ((half is None) | (identity_N % 2 == half)))
    )
    log = RunLog(no_progress, False)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scoring = images_scored(table, config, stack, folder=folder, log=log)
        table = scoring.features.table
        visits = score_visits(scoring, np.arange(len(table)))
    identity_N, _ = codes(table.rows["identity"].tolist(), [])
    return NamedVisits(named_pairs(visits, identity_N, name))


def agglomerative(linkage: str) -> Cluster:
    """scikit-learn's, cut at a distance."""
    return lambda distance_VV, setting: AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage=linkage, distance_threshold=setting
    ).fit_predict(distance_VV)


def hdbscan(distance_VV: np.ndarray, setting: float) -> np.ndarray:
    """scikit-learn's, with this many samples of a core."""
    group_V = HDBSCAN(
        metric="precomputed", min_cluster_size=2, min_samples=int(setting), copy=True
    ).fit_predict(distance_VV)
    alone = np.flatnonzero(group_V < 0)
    group_V[alone] = group_V.max(initial=-1) + 1 + np.arange(len(alone))
    return group_V


def chosen(
    cluster: Cluster, settings: np.ndarray, sets: list[tuple[NamedVisits, np.ndarray]]
) -> float:
    """The setting with the best mean adjusted Rand index."""

    def mean(setting: float) -> float:
        indices = [one.measured(cluster(distance_VV, setting))["ari"] for one, distance_VV in sets]
        return float(np.mean(indices))

    return float(max(settings, key=mean))


def add_figures(report: Report, name: str, figures: dict[str, float], groups: int) -> None:
    """The rows of one way on one set."""
    report.add(f"{name}: groups", groups, "")
    for metric, value in figures.items():
        report.add(f"  {metric}", 100 * value, "%")


def main() -> None:
    """Choose on one half, measure on the other."""
    options = arguments()
    with ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        common = [
            "benchmark.method=local_index",
            f"benchmark.local_top_k={options.keypoints}",
            f"output.root={out}",
        ]
        sets: dict[str, list[NamedVisits]] = {"fitted": [], "measured": []}
        drawn = [("fitted", FITTED_IDENTITIES)]
        drawn += [("measured", count) for count in options.identities]
        for role, wanted in [("fitted", 8), ("measured", 8)] if options.quick else drawn:
            root = out / f"drawn-{wanted}-{SEEDS[role]}"
            if not root.exists():
                write_dataset(
                    root, identities=wanted, images_per_identity=IMAGES_OF_EACH, seed=SEEDS[role]
                )
            config = load_config(ProbeConfig, None, [*common, f"dataset.root={root}"])
            sets[role].append(scored(config, f"{wanted} drawn animals"))
        if options.root is not None:
            words = [*common, f"dataset.root={options.root}", *options.overrides]
            config = load_config(ProbeConfig, None, words)
            for half, role in enumerate(SEEDS):
                part = scored(config, options.name, half)
                animals = len(np.unique(part.pairs.identity_V))
                name = f"{animals} {options.name}"
                one = part.pairs
                named = NamedPairs(name, one.pairs, one.identity_V, one.images_V, one.photo_V)
                sets[role].append(NamedVisits(named))
        grouping = fit_visit_grouping([one.pairs for one in sets["fitted"]], seed=0)
        if options.ship is not None:
            config = load_config(ProbeConfig, None, common)
            content = {
                "made_by": "python benchmarks/discover.py --ship FILE --root NYALA --name NAME",
                "scored_by": scored_by(config),
                "practice": grouping.as_json(),
            }
            options.ship.write_text(json.dumps(content, indent=1) + "\n")
        measure(sets, grouping, options.json)


def measure(sets: dict[str, list[NamedVisits]], grouping: VisitGrouping, file: Path | None) -> None:
    """The table."""
    report = Report("Photographs grouped into animals, without names", as_it_goes=file)
    report.add("cut", 100 * grouping.cut, "%")
    ways: dict[str, tuple[Cluster, np.ndarray]] = {
        "HDBSCAN": (hdbscan, np.array(MIN_SAMPLES)),
        **{
            f"agglomerative, {linkage}": (agglomerative(linkage), DISTANCES)
            for linkage in ("average", "complete", "single")
        },
    }
    fitted = [(one, one.distances(grouping)) for one in sets["fitted"]]
    settings = {name: chosen(*way, fitted) for name, way in ways.items()}
    for one in sets["measured"]:
        pairs = one.pairs
        name, animals = pairs.name, len(np.unique(pairs.identity_V))
        report.add(f"{name}: animals", animals, "")
        report.add(f"{name}: visits", len(pairs.photo_V), "")
        probability_P = grouping.curve.apply(pairs.pairs.score_P)
        group_V = group_visits(pairs.pairs, probability_P, grouping.cut, pairs.photo_V)
        groups = int(group_V.max()) + 1
        add_figures(report, f"{name}, discover", one.measured(group_V), groups)
        number = count_animals(groups, len(group_V), grouping.sets, seed=0)
        if number is not None:
            report.add("  number of animals, 95% interval", groups, "", interval=number)
        for way, (cluster, _) in ways.items():
            group_V = cluster(one.distances(grouping), settings[way])
            groups = len(np.unique(group_V))
            add_figures(
                report, f"{name}, {way} ({settings[way]:.3g})", one.measured(group_V), groups
            )
        alone = np.arange(len(pairs.photo_V))
        add_figures(report, f"{name}, each visit alone", one.measured(alone), len(alone))
    report.show(file)


if __name__ == "__main__":
    main()
