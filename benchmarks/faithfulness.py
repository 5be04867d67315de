"""Are the explanations true, and does a method look at the animal?

- Hiding the places that an explanation points at must cost more of the score than hiding others of
  the same area on the animal: at random, and (harder) where other keypoints lie.
- At equal cosine, pairs of one animal must have more inliers than pairs of two.
- Without the animal an answer can only come from the background; without the background, only
  from the animal.
- The mirror image of a coat is another coat: a method that reads coats loses its matches.

Every interval is a 95% bootstrap over animals. Without --data, on synthetic animals that it draws.
With --json FILE, `exreid report` shows the figures: put it into the run's folder as
faithfulness.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from _hiding import densest_region, hidden, random_points, region_of_points
from _report import Report

from exreid.data.images import Preprocessing, prepare_image, prepare_matte
from exreid.data.metadata import Columns, read_image_table, retrieval_sides
from exreid.data.synthetic import write_dataset
from exreid.explain.similarity import explain_similarity
from exreid.explain.similarity_picture import similarity_density
from exreid.features.embedding import Embedder
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalPreprocessing
from exreid.matching.cosine import cosine_of_pairs, rank_by_cosine
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.metrics.ranking import Exclude
from exreid.metrics.retrieval import QueryValues, average_values, first_rank, hit
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.models.backbones import build_backbone
from exreid.models.lightglue import load_lightglue
from exreid.records import ImageTable, LocalFeatures, PairMatches
from exreid.storage.urls import read_bytes

HIDDEN_SHARE = 0.15
"""Of the animal's area; a part small enough that the animal is still one."""
LEAST_MATCHES = 5
"""Pairs with fewer have no evidence that could be hidden."""
COUNTS_FROM = 0.5
EXCLUDED: tuple[Exclude, ...] = ("encounter", "image")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--data", help="root of a data set with masks; default: synthetic")
    parser.add_argument("--encounter", default="source,encounter", help="columns, with commas")
    parser.add_argument("--viewpoint", default="pose", help="column; pairs show the same side")
    parser.add_argument("--model", default="efficientnet-lite0", help="as model.type")
    parser.add_argument("--pairs", type=int, help="pairs to look at; default 60, quick 12")
    parser.add_argument("--keypoints", type=int, default=256)
    return parser.parse_args()


@dataclass(frozen=True)
class Pair:
    """A query, an image of its animal from another encounter, and one of another animal that is
    as near by the cosine; positions in the table."""

    query: int
    same: int
    other: int
    identity: int


class Animals:
    """The images of the table, as each method is given them, and what the methods make of them."""

    def __init__(self, table: ImageTable, model: str, keypoints: int) -> None:
        self.table = table
        self.backbone = build_backbone(model)
        size = self.backbone.image_size
        self.pre = Preprocessing(
            (size, size),
            self.backbone.resize,
            self.backbone.crop_pct,
            self.backbone.interpolation,  # type: ignore[arg-type]
            no_background=False,
            crop="none",
            crop_margin=0.1,
            fill_rgb=self.backbone.mean_colour_rgb,
        )
        self.embedder = Embedder(self.backbone, batch_size=16)
        self.local = LocalPreprocessing(512, False, "filter", "none", 0.0)
        self.extractor = LocalExtractor("aliked-n16", keypoints=keypoints)
        settings = MatchSettings(geometry="fundamental")
        self.matcher = LightGlueMatcher(load_lightglue("aliked"), settings)
        self.picture = lru_cache(256)(self._picture)
        self.features = lru_cache(256)(self._features)

    def _file(self, i: int) -> tuple[bytes, str]:
        row = self.table.rows.iloc[i]
        return read_bytes(self.table.root, row["path"]), row["mask"]

    def seen(self, i: int, *, no_background: bool = False) -> np.ndarray:
        """The image as the backbone is given it."""
        return prepare_image(*self._file(i), replace(self.pre, no_background=no_background))

    def matte(self, i: int) -> np.ndarray:
        """Where the animal is in it."""
        return prepare_matte(*self._file(i), self.pre) >= 128

    def embed(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of the backbone, float32 (N, D)."""
        return self.embedder(np.stack(images))

    def _picture(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.local.prepare(*self._file(i))
        assert mask is not None
        return image, mask

    def _features(self, i: int) -> LocalFeatures:
        return self.extract(*self.picture(i))

    def extract(self, image: np.ndarray, mask: np.ndarray) -> LocalFeatures:
        """Keypoints of one picture from where the mask is."""
        return self.extractor(image[None], mask[None])

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> PairMatches:
        """The matches that count."""
        found = self.matcher.details(query, gallery, np.array([[0, 0]], np.int32))[0]
        kept = found.confidence_X > COUNTS_FROM
        return PairMatches(
            found.query_X[kept], found.gallery_X[kept], found.confidence_X[kept],
            found.inlier_X[kept],
        )  # fmt: skip

    def count(self, query: LocalFeatures, gallery: LocalFeatures) -> int:
        """The local score: how many matches count."""
        return len(self.match(query, gallery).query_X)


class Figures:
    """Values per animal, and their means with intervals."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def add(
        self,
        name: str,
        value_P: np.ndarray,
        identity_P: np.ndarray,
        unit: str,
        *,
        against: tuple[str, np.ndarray, np.ndarray] | None = None,
        meaning: str = "",
    ) -> None:
        """The mean; ``against`` names what is compared: its values, and those whose mean is
        divided by theirs for the ratio. NaN values are passed over."""
        value_P = np.asarray(value_P, np.float64)
        counted = QueryValues(np.nan_to_num(value_P), ~np.isnan(value_P))
        mean = average_values({name: counted}, identity_P).get(name, float("nan"))
        interval = bootstrap_intervals({name: counted}, identity_P).get(name)
        named, ratio = "", None
        if against is not None:
            base = float(np.nanmean(against[1]))
            named = f"{against[0]}: {base:.3g}"
            ratio = float(np.nanmean(against[2])) / base if base else None
        self.report.add(
            name, mean, unit, against=named, ratio=ratio, interval=interval, meaning=meaning
        )


def choose_pairs(animals: Animals, vectors: np.ndarray, sides: np.ndarray, most: int) -> list[Pair]:
    """Pairs of one animal from different encounters, the same side, evenly out of all queries; and
    for each the pair of two animals with the same query and the nearest cosine."""
    rows = animals.table.rows
    identity, encounter = (pd.factorize(rows[name])[0] for name in ("identity", "encounter"))
    random = np.random.default_rng(0)
    pairs = []
    for query in random.permutation(len(rows)).tolist():
        apart = (encounter != encounter[query]) | (encounter < 0)
        usable = apart & (sides == sides[query])
        same = np.flatnonzero(usable & (identity == identity[query]))
        same = same[same != query]
        other = np.flatnonzero(usable & (identity != identity[query]))
        if len(same) == 0 or len(other) == 0:
            continue
        chosen = int(random.choice(same))
        near = cosine_of_pairs(vectors, np.full(len(other), query), other)
        own = cosine_of_pairs(vectors, np.array([query]), np.array([chosen]))[0]
        nearest = int(other[np.abs(near - own).argmin()])
        pairs.append(Pair(query, chosen, nearest, int(identity[query])))
        if len(pairs) == most:
            break
    return pairs


def deletion_of_matches(figures: Figures, animals: Animals, pairs: list[Pair]) -> None:
    """Hiding where the matches lie, against hiding other parts of the animal."""
    random = np.random.default_rng(1)
    lost: dict[str, list[float]] = {"evidence": [], "random": [], "keypoints": []}
    identity = []
    for pair in pairs:
        query, gallery = animals.features(pair.query), animals.features(pair.same)
        found = animals.match(query, gallery)
        before = len(found.query_X)
        if before < LEAST_MATCHES:
            continue
        image, mask = animals.picture(pair.query)
        points = query.keypoints_NK2[0][: query.count_N[0]]
        places = {
            "evidence": points[found.query_X],
            "random": random_points(mask, before, random),
            "keypoints": points[random.choice(len(points), before)],
        }
        for name, xy in places.items():
            weight = found.confidence_X if name == "evidence" else np.ones(before)
            region = region_of_points(xy, weight, HIDDEN_SHARE, mask)
            after = animals.count(animals.extract(hidden(image, region), mask), gallery)
            lost[name].append(1 - after / before)
        identity.append(pair.identity)
    if not identity:
        return
    evidence, *controls = (np.array(values) for values in lost.values())
    for values, words in zip(controls, ("at random", "where other keypoints are"), strict=True):
        figures.add(
            f"matches lost by hiding their places, minus by hiding {words}",
            100 * (evidence - values),
            np.array(identity),
            "points of 100",
            against=(f"lost by hiding {words}, of 100", 100 * values, 100 * evidence),
            meaning="Above 0 the overlay shows what the local score rests on: hiding 15% of the "
            "animal where the matches lie costs more matches than hiding another 15%.",
        )
    figures.report.add("pairs with matches to hide", len(identity), "pairs")


def deletion_of_regions(figures: Figures, animals: Animals, pairs: list[Pair]) -> None:
    """Hiding what the similarity map points at, against other parts of the animal."""
    random = np.random.default_rng(2)
    drops: dict[str, list[float]] = {"map": [], "random": []}
    identity = []
    for pair in pairs:
        query, gallery, matte = (
            animals.seen(pair.query), animals.seen(pair.same), animals.matte(pair.query)
        )  # fmt: skip
        if not matte.any():
            continue
        similarity = explain_similarity(animals.backbone, query, gallery)
        density = similarity_density(similarity.query_HW, matte.shape[::-1])
        count = max(5, similarity.query_HW.size // 5)
        regions = {
            "map": densest_region(density, HIDDEN_SHARE, matte),
            "random": region_of_points(
                random_points(matte, count, random), np.ones(count), HIDDEN_SHARE, matte
            ),
        }
        vectors = animals.embed([gallery, query, *(hidden(query, r) for r in regions.values())])
        cosine = cosine_of_pairs(vectors, np.zeros(3, int), np.arange(1, 4))
        for name, after in zip(regions, cosine[1:], strict=True):
            drops[name].append(float(cosine[0] - after))
        identity.append(pair.identity)
    shown, control = np.array(drops["map"]), np.array(drops["random"])
    figures.add(
        "cosine lost by hiding what the map shows, minus at random",
        shown - control,
        np.array(identity),
        "cosine",
        against=("lost by hiding at random", control, shown),
        meaning="Above 0 the similarity map shows what the cosine rests on.",
    )


def pairs_at_equal_cosine(
    figures: Figures, animals: Animals, pairs: list[Pair], vectors: np.ndarray
) -> None:
    """Inliers of true and false pairs; and the same from the background's keypoints."""
    identity = np.array([pair.identity for pair in pairs])
    query, same, other = np.array([(p.query, p.same, p.other) for p in pairs]).T
    apart = cosine_of_pairs(vectors, query, same) - cosine_of_pairs(vectors, query, other)
    figures.add("their cosines differ by", np.abs(apart), identity, "cosine")

    def inliers(query: LocalFeatures, gallery: LocalFeatures) -> int:
        return int(animals.match(query, gallery).inlier_X.sum())

    on = [
        [inliers(animals.features(p.query), animals.features(i)) for i in (p.same, p.other)]
        for p in pairs
    ]
    true, false = np.array(on, np.float64).T
    figures.add(
        "inliers of pairs of one animal, minus of two at equal cosine",
        true - false,
        identity,
        "inliers",
        against=("pairs of two animals", false, true),
        meaning="Above 0 keypoints tell animals apart that the embedding holds for equally alike.",
    )
    wins = (true > false) + 0.5 * (true == false)
    figures.add(
        "pairs of one animal with more inliers (ties count half)",
        100 * wins,
        identity,
        "%",
        meaning="50% is chance.",
    )

    @lru_cache(256)
    def ground(i: int) -> LocalFeatures:
        image, mask = animals.picture(i)
        return animals.extract(image, ~mask)

    off = [[inliers(ground(p.query), ground(i)) for i in (p.same, p.other)] for p in pairs]
    true, false = np.array(off, np.float64).T
    figures.add(
        "the same by keypoints of the background alone",
        100 * ((true > false) + 0.5 * (true == false)),
        identity,
        "%",
        meaning="Above 50% the background gives the animal away, as at a camera trap that few "
        "animals pass.",
    )


def mirrored(figures: Figures, animals: Animals, pairs: list[Pair], vectors: np.ndarray) -> None:
    """What is left of the scores when the candidate is mirrored."""
    identity, kept, drop = [], [], []
    for pair in pairs:
        query, gallery = animals.features(pair.query), animals.features(pair.same)
        before = animals.count(query, gallery)
        image, mask = animals.picture(pair.same)
        turned = animals.extract(
            np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
        )
        after = animals.count(query, turned)
        kept.append(after / before if before >= LEAST_MATCHES else np.nan)
        own = animals.embed([np.ascontiguousarray(animals.seen(pair.same)[:, ::-1])])
        both = np.concatenate([vectors[[pair.query, pair.same]], own])
        cosine = cosine_of_pairs(both, np.zeros(2, int), np.array([1, 2]))
        drop.append(cosine[0] - cosine[1])
        identity.append(pair.identity)
    figures.add(
        "matches kept when the candidate is mirrored",
        100 * np.array(kept),
        np.array(identity),
        "%",
        meaning="Near 0 the matches read the coat; near 100 they read what a mirror keeps.",
    )
    figures.add(
        "cosine lost when the candidate is mirrored",
        np.array(drop),
        np.array(identity),
        "cosine",
        meaning="Near 0 the embedding takes an animal's mirror image for the animal, whose other "
        "flank looks different.",
    )


def ground_and_animal(figures: Figures, animals: Animals) -> np.ndarray:
    """Top-1 of the embedding by whole photographs, animals alone and background alone; the
    vectors of whole photographs."""
    table = animals.table
    every = np.arange(len(table))
    places = every.tolist()
    queries, gallery = retrieval_sides(table, every, every)
    chance = _chance(queries.identity_N, queries.encounter_N)
    ways: dict[str, Iterator[np.ndarray]] = {
        "whole photographs": (animals.seen(i) for i in places),
        "the animal alone": (animals.seen(i, no_background=True) for i in places),
        "the background alone": (hidden(animals.seen(i), animals.matte(i)) for i in places),
    }
    whole = np.zeros((0, 0), np.float32)
    for name, images in ways.items():
        vectors = animals.embed(list(images))
        whole = vectors if not len(whole) else whole
        for exclude in EXCLUDED:
            ranking = rank_by_cosine(vectors, vectors, queries, gallery, exclude=exclude)
            rank = first_rank(ranking.positive_offset_Q1, ranking.positive_rank_P)
            right = np.where(rank > 0, 100 * hit(rank, 1), np.nan)
            own = "other visits" if exclude == "encounter" else "its own visit too"
            figures.add(
                f"top-1 of the embedding by {name}, among {own}",
                right,
                queries.identity_N,
                "%",
                against=("chance", 100 * chance, right) if exclude == "encounter" else None,
                meaning="By the background alone, far over chance means that places are learnt, "
                "not animals; among its own visit, that bursts are recognised.",
            )
    return whole


def _chance(identity_N: np.ndarray, encounter_N: np.ndarray) -> np.ndarray:
    """The share of each image's own animal among the images of other visits."""
    apart = (encounter_N[:, None] != encounter_N) | (encounter_N[:, None] < 0)
    np.fill_diagonal(apart, False)
    same = (identity_N[:, None] == identity_N) & apart
    return np.asarray(np.where(same.any(axis=1), same.sum(axis=1) / apart.sum(axis=1), np.nan))


def data_set(options: argparse.Namespace) -> tuple[ImageTable, np.ndarray]:
    """The table, images with a mask alone; and a code for the side that each shows."""
    root = options.data
    if root is None:
        root = str(Path(tempfile.mkdtemp()) / "data")
        identities, each = (8, 6) if options.quick else (20, 8)
        write_dataset(Path(root), identities=identities, images_per_identity=each, seed=7)
    columns = Columns(encounter=tuple(options.encounter.split(",")), viewpoint=options.viewpoint)
    table, _ = read_image_table(root, columns=columns)
    masked = table.rows["mask"].notna() & (table.rows["mask"] != "")
    if not masked.any():
        raise SystemExit(f"{root}: no image has a mask, which says where the animal is.")
    table = table.take(masked.to_numpy())
    return table, pd.factorize(table.rows["viewpoint"])[0]


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    table, sides = data_set(options)
    animals = Animals(table, options.model, options.keypoints)
    where = options.data or "synthetic animals"
    report = Report(f"Are the explanations true? {len(table)} photographs, {where}")
    figures = Figures(report)
    vectors = ground_and_animal(figures, animals)
    most = options.pairs or (12 if options.quick else 60)
    pairs = choose_pairs(animals, vectors, sides, most)
    if not pairs:
        raise SystemExit(
            "No two images show one side of one animal in different encounters: see --encounter "
            "and --viewpoint."
        )
    report.add("pairs of one animal looked at, and as many of two", len(pairs), "pairs")
    deletion_of_matches(figures, animals, pairs)
    deletion_of_regions(figures, animals, pairs)
    pairs_at_equal_cosine(figures, animals, pairs, vectors)
    mirrored(figures, animals, pairs, vectors)
    report.show(options.json)


if __name__ == "__main__":
    main()
