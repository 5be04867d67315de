"""A gallery's local descriptors as one index: searched in this process or over actors, and kept.

Letters: Q queries, G gallery images, K keypoints, P pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pyarrow as pa

from exreid.features.keys import keys_fingerprint, stage_folder
from exreid.matching.cascade import SEARCH_STAGE
from exreid.matching.local_index import (
    NearestImages,
    deciding_keypoints,
    image_matches,
    image_scores,
    keypoint_distances,
    nearest_images,
    nearest_of,
    nearest_of_some,
    scores_against,
    without,
)
from exreid.matching.tiles import Answer, Ask, Tile, plan_tiles
from exreid.metrics.ranking import (
    Exclude,
    GalleryIndex,
    blocks,
    concatenate_rankings,
    excluded_images,
    index_gallery,
    places_in,
    rank_block,
)
from exreid.pipeline.index_segments import IndexSegments, ask_tiles, is_approximate
from exreid.pipeline.inputs import cache_folder
from exreid.pipeline.match import LocalMethod
from exreid.records import Counts, LocalFeatures, Ranking, RetrievalSide
from exreid.storage.array_store import ArrayStore, write_part
from exreid.storage.run_tables import matches_table

LeftOut = Exclude | Literal["identity"]
"""Which gallery images do not answer a query: itself; its encounter's; or also its animal's, as if
that were new."""
QUERIES_AT_A_TIME = 64
PAIRS_PER_TILE = {"cpu": 4096, "cuda": 65536}
COMPARED_BEST = 128
"""Of the images that segments find, so many with the highest scores are compared wholly."""
ALIKE, DECIDING = 0.05, 64
"""Where a second image scores within this share of the first, so many keypoints are searched again,
among more descriptors: those that say most for the images within it."""
RECALL_QUERIES, RECALL_EVERY = 16, 16
"""The recall of segments is measured on so many queries, at every sixteenth of their keypoints."""
VERSION = 2
"""Raise it when the code of the search changes its answers."""
SEGMENTS_VERSION = 4
"""The same of the search by segments."""


class LocalIndex:
    """The index of one gallery by one kind of local features. What was searched is in the cache."""

    def __init__(
        self,
        method: LocalMethod,
        images: RetrievalSide,
        gallery: RetrievalSide,
        *,
        neighbours: int,
    ) -> None:
        """``images`` are all of the table. ``neighbours``: the images that a keypoint speaks for,
        k of `exreid.matching.local_index`."""
        self.method, self.images, self.gallery = method, images, gallery
        self.keep, self.keypoints = neighbours + 1, method.config.benchmark.local_top_k
        keys = method.images.keys
        self.gallery_keys = [keys[i] for i in gallery.position_N]
        description: dict[str, object] = {
            "stage": "nearest images",
            "stage_version": VERSION,
            "local": method.images.description,
            "keep": self.keep,
            "gallery": keys_fingerprint(self.gallery_keys),
        }
        self.segments: IndexSegments | None = None
        """None where all images are compared."""
        if is_approximate(method, len(gallery)):
            self.segments = IndexSegments(method, gallery, self.keep)
            description |= {"segments": self.segments.names, "version": SEGMENTS_VERSION}
        self.folder = stage_folder(cache_folder(method.config), "nearest", description)
        self._store: ArrayStore | None = None
        self._known: dict[Exclude, GalleryIndex] = {}

    def rank(
        self,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        *,
        exclude: Exclude,
        keep: int,
        on_progress: Callable[[int], object] = lambda count: None,
        counted: bool = True,
    ) -> Ranking:
        """The gallery, or a part of it, by the scores; the ranks of all positives are exact. The
        search is ``counted`` in the run's tally."""
        known, parts = index_gallery(gallery, exclude=exclude), []
        place_G = np.searchsorted(self.gallery.position_N, gallery.position_N)
        for block in blocks(queries, QUERIES_AT_A_TIME):
            scores_QG = self.scores(block, exclude, counted=counted)[:, place_G]
            parts.append(rank_block(scores_QG, block, known, keep=keep))
            on_progress(len(block))
        return concatenate_rankings(parts)

    def scores(
        self, queries: RetrievalSide, exclude: LeftOut, *, counted: bool = True
    ) -> np.ndarray:
        """float64 (Q, G), by `exreid.matching.local_index.image_scores`."""
        nearest, count_Q = self.nearest(queries, exclude, counted=counted)
        return image_scores(nearest, count_Q, len(self.gallery))

    def pair_scores(
        self, first_P: np.ndarray, second_P: np.ndarray, *, exclude: LeftOut
    ) -> np.ndarray:
        """The score of each pair of table positions, float64, by the first image's keypoints. A
        second image that is not in the gallery, or may not answer the first, is scored by the same
        formula, against the same background."""
        first_F, row_P = np.unique(first_P, return_inverse=True)
        place_P = places_in(self.gallery, second_P)
        score_P = np.full(len(first_P), np.nan)
        for start in range(0, len(first_F), QUERIES_AT_A_TIME):
            block = self.images.take(first_F[start : start + QUERIES_AT_A_TIME])
            mine_P = np.flatnonzero((row_P >= start) & (row_P < start + len(block)))
            row_M, place_M = row_P[mine_P] - start, place_P[mine_P]
            inside_M = place_M >= 0
            for q, out in enumerate(self._left_out(block, exclude)):
                inside_M &= (row_M != q) | ~np.isin(place_M, out)
            nearest, count_Q = self.nearest(block, exclude)
            score_QG = image_scores(nearest, count_Q, len(self.gallery))
            score_P[mine_P[inside_M]] = score_QG[row_M[inside_M], place_M[inside_M]]
            other_M = np.flatnonzero(~inside_M)
            if len(other_M):
                pairs = first_P[mine_P[other_M]], second_P[mine_P[other_M]]
                score_P[mine_P[other_M]] = scores_against(
                    self._distances(*pairs),
                    nearest.squared_QKC[row_M[other_M], :, -1],
                    count_Q[row_M[other_M]],
                )
        return score_P

    def matches(
        self, queries: RetrievalSide, query_P: np.ndarray, gallery_P: np.ndarray, exclude: Exclude
    ) -> pa.Table:
        """``matches.parquet``: the keypoints that speak for each candidate, by what they say."""
        matches = []
        for number, block in enumerate(blocks(queries, QUERIES_AT_A_TIME)):
            start = number * QUERIES_AT_A_TIME
            nearest, _ = self.nearest(block, exclude, counted=False)
            mine_P = np.flatnonzero((query_P >= start) & (query_P < start + len(block)))
            for q, g in zip(
                (query_P[mine_P] - start).tolist(), gallery_P[mine_P].tolist(), strict=True
            ):
                matches.append(image_matches(nearest.take(np.array([q])), g))
        ids = self.method.image_ids
        first_P, second_P = queries.position_N[query_P], self.gallery.position_N[gallery_P]
        return matches_table(
            [(ids[i], ids[j]) for i, j in zip(first_P, second_P, strict=True)],
            matches,
            self.method.features_of(first_P),
            self.method.features_of(second_P),
        )

    def nearest(
        self, queries: RetrievalSide, exclude: LeftOut, *, counted: bool = True
    ) -> tuple[NearestImages, np.ndarray]:
        """The nearest gallery images of each keypoint, from the cache or searched, and the number
        of each query's keypoints; ``counted`` in the run's tally."""
        left_out = self._left_out(queries, exclude)
        entries = [self._entry(p, out) for p, out in zip(queries.position_N, left_out, strict=True)]
        store = self._opened()
        store.set_damaged_aside(entries)
        new = [q for q, entry in enumerate(entries) if entry not in store]
        if counted:
            tally, whole = self.method.tally, len(self.gallery)
            tally.pairs[SEARCH_STAGE] = tally.pairs.get(SEARCH_STAGE, 0) + len(queries) * whole
            tally.pairs_known += (len(queries) - len(new)) * whole
        if new:
            fresh = self._search(queries.position_N[new], [left_out[q] for q in new])
            count_M = self.method.features_of(queries.position_N[new]).count_N
            once = {entries[q]: row for row, q in enumerate(new)}
            row_M = np.array([*once.values()])
            write_part(self.folder, list(once), _records(fresh.take(row_M), count_M[row_M]))
            self._store = None
        self.method.tally.index |= self._how()
        records = self._opened().gather(entries)
        nearest = NearestImages(records["squared"], records["image"], records["keypoint"])
        return nearest, records["count"]

    def _how(self) -> Counts:
        """How it is searched, for the result."""
        if self.segments is None:
            return {"index_search": "exact"}
        how: Counts = {"index_search": "approximate"}
        if recall := self.segments.recall():
            share = round(recall["found"] / max(recall["asked"], 1), 4)
            how |= {"index_recall": share, "index_recall_of": recall["asked"]}
        return how

    def _opened(self) -> ArrayStore:
        if self._store is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._store = ArrayStore(self.folder)
        return self._store

    def _left_out(self, queries: RetrievalSide, exclude: LeftOut) -> list[np.ndarray]:
        """Gallery indices that do not answer each query, rising."""
        among: Exclude = "encounter" if exclude == "identity" else exclude
        if among not in self._known:
            self._known[among] = index_gallery(self.gallery, exclude=among)
        index = self._known[among]
        left_out = [excluded_images(queries, q, index) for q in range(len(queries))]
        if exclude != "identity":
            return left_out
        own_Q = places_in(self.gallery, queries.position_N)
        for q in np.flatnonzero(own_Q >= 0).tolist():
            animal = self.gallery.identity_N[own_Q[q]]
            left_out[q] = np.union1d(left_out[q], index.identities.members(int(animal)))
        return left_out

    def _entry(self, position: int, left_out: np.ndarray) -> str:
        own = self.method.images.keys[position]
        text = "\n".join([own, *(self.gallery_keys[g] for g in left_out.tolist())])
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _search(self, position_M: np.ndarray, left_out: list[np.ndarray]) -> NearestImages:
        """Of the images at these positions, each once."""
        answers_MG = np.ones((len(position_M), len(self.gallery)), bool)
        for m, out in enumerate(left_out):
            answers_MG[m, out] = False
        segments = self.segments
        if segments is None:
            return self._compared(position_M, answers_MG)
        queries = self.method.features_of(position_M)
        found = segments.candidates(queries, position_M, left_out)
        scores_MG = image_scores(nearest_of([found], self.keep), queries.count_N, len(self.gallery))
        whole_MG = np.zeros_like(answers_MG)
        whole_MG[:, segments.plan.rest] = True
        for m, score_G in enumerate(scores_MG):
            named = np.flatnonzero(score_G)
            best = np.argsort(-score_G[named], kind="stable")[:COMPARED_BEST]
            whole_MG[m, named[best]] = True
        whole_MG &= answers_MG
        compared = self._compared(position_M, whole_MG)
        query_M11 = np.arange(len(position_M))[:, None, None]
        twice_MKC = whole_MG[query_M11, found.image_QKC]
        nearest = nearest_of([without(found, twice_MKC), compared], self.keep)
        nearest = self._decided(segments, queries, position_M, left_out, nearest)
        if segments.recall() is None and not segments.are_stored:
            self._measure(segments, position_M, answers_MG, nearest)
        return nearest

    def _decided(
        self,
        segments: IndexSegments,
        queries: LocalFeatures,
        position_M: np.ndarray,
        left_out: list[np.ndarray],
        nearest: NearestImages,
    ) -> NearestImages:
        """With more of the nearest images of the keypoints that decide, where the highest scores
        are alike: a missed one makes the background too far."""
        known = []
        for m, count in enumerate(queries.count_N):
            one = np.array([m])
            near = nearest.take(one)
            only = deciding_keypoints(near, int(count), alike=ALIKE, most=DECIDING)
            if len(only):
                query, out = queries.take(one), [left_out[m]]
                more = segments.candidates(query, position_M[one], out, only=only)
                twice_QKC = (more.image_QKC[..., None] == near.image_QKC[:, :, None]).any(axis=3)
                near = nearest_of([near, without(more, twice_QKC)], self.keep)
            known.append(near)
        return NearestImages.joined(known)

    def _measure(
        self,
        segments: IndexSegments,
        position_M: np.ndarray,
        answers_MG: np.ndarray,
        nearest: NearestImages,
    ) -> None:
        """Search for some keypoints of some queries among all images, and keep the share of their
        nearest images that was found."""
        some = np.linspace(0, len(position_M) - 1, min(RECALL_QUERIES, len(position_M)))
        some_S = some.round().astype(int)
        ask = partial(nearest_of_some, keep=self.keep, every=RECALL_EVERY)
        keypoints = -(-self.keypoints // RECALL_EVERY)
        true = self._compared(position_M[some_S], answers_MG[some_S], ask, keypoints).image_QKC
        found = nearest.image_QKC[some_S, ::RECALL_EVERY]
        hit_SKC = (true[..., None] == found[:, :, None, :]).any(axis=-1) & (true >= 0)
        segments.keep_recall(int((true >= 0).sum()), int(hit_SKC.sum()))

    def _compared(
        self,
        position_M: np.ndarray,
        answers_MG: np.ndarray,
        ask: Ask[NearestImages] | None = None,
        keypoints: int | None = None,
    ) -> NearestImages:
        """The nearest of those gallery images that answer, compared one by one; ``ask`` for the
        nearest ones of ``keypoints`` of each query, instead of all."""
        ask = partial(nearest_images, keep=self.keep) if ask is None else ask
        row_P, place_P = np.nonzero(answers_MG)
        pairs = position_M[row_P], self.gallery.position_N[place_P]
        row_of = {int(position): m for m, position in enumerate(position_M)}
        parts: list[list[NearestImages]] = [[] for _ in position_M]
        for tile, answer in self._asked(ask, *pairs):
            place_C = np.searchsorted(self.gallery.position_N, tile.gallery_M).astype(np.int32)
            image_QKC = np.where(answer.image_QKC >= 0, place_C[answer.image_QKC], np.int32(-1))
            near = replace(answer, image_QKC=image_QKC)
            for row, position in enumerate(tile.query_M.tolist()):
                parts[row_of[position]].append(near.take(np.array([row])))
        none = NearestImages.none(1, keypoints or self.keypoints)
        return NearestImages.joined([nearest_of([none, *part], self.keep) for part in parts])

    def _distances(self, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
        """float64 (P, K), by `keypoint_distances`."""
        squared_PK = np.empty((len(first_P), self.keypoints))
        for tile, squared in self._asked(keypoint_distances, first_P, second_P):
            squared_PK[tile.place_P] = squared
        return squared_PK

    def _asked(
        self, ask: Ask[Answer], first_P: np.ndarray, second_P: np.ndarray
    ) -> Iterator[tuple[Tile, Answer]]:
        per_tile = PAIRS_PER_TILE[self.method.matchers.device]
        return ask_tiles(self.method, plan_tiles(first_P, second_P, pairs_per_tile=per_tile), ask)


def _records(nearest: NearestImages, count_Q: np.ndarray) -> np.ndarray:
    """An entry of the cache for each query, which has as many keypoints."""
    shape = nearest.squared_QKC.shape[1:]
    columns = [("squared", "<f8", shape), ("image", "<i4", shape), ("keypoint", "<i2", shape)]
    records = np.zeros(len(nearest.squared_QKC), np.dtype([*columns, ("count", "<i4")]))
    records["squared"], records["image"] = nearest.squared_QKC, nearest.image_QKC
    records["keypoint"], records["count"] = nearest.keypoint_QKC, count_Q
    return records
