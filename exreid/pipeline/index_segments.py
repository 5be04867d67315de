"""A large gallery's index as segments: which there are, their building, and what is found in them.

A gallery is cut into segments of about two million descriptors; up to `COMPARED_IMAGES` images that
are in none are compared one by one. A segment's images may leave the gallery, and then answer no
query. So a gallery that changes a little is not indexed again: a new segment is built where too
many images are in none, out of these and of segments that are no larger.

Letters: Q queries, G gallery images, R images of a segment, P pairs.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from exreid.errors import CacheError, GalleryError, MatchingError
from exreid.features.keys import describe_fingerprint, keys_fingerprint, stage_folder
from exreid.matching.cascade import MakeMatcher
from exreid.matching.local_index import SPARE, NearestImages, nearest_of
from exreid.matching.nearest import NearestSettings
from exreid.matching.segment_files import FORMAT, Segment, read_segment
from exreid.matching.segments import (
    AVAILABLE,
    build_segment,
    search_segment,
    with_exact_distances,
)
from exreid.matching.tiles import Answer, Ask, Tile
from exreid.pipeline.inputs import cache_folder
from exreid.pipeline.match import LocalMethod
from exreid.progress import counted
from exreid.records import LocalFeatures, RetrievalSide
from exreid.storage import mirror
from exreid.storage.files import clear_leftovers, read_json, set_aside, written_whole

log = logging.getLogger(__name__)

COMPARED_IMAGES = 512
"""Up to as many are compared one by one: there a segment saves too little time."""
SEGMENT_DESCRIPTORS = 2**21
QUERIES_PER_TILE = 8
DESCRIPTORS = 2
"""Descriptors that are fetched for each wanted image: several may be of one."""
VERSION = 4
"""Raise it when the code of segments changes what they find, or their files."""


@dataclass(frozen=True)
class Plan:
    """Which images of a gallery are in which segment."""

    known: tuple[Segment, ...]
    """Segments that are built."""
    new: tuple[np.ndarray, ...]
    """The gallery indices of the images of each further one, rising."""
    place_of_known: tuple[np.ndarray, ...]
    """For each image of each known segment its gallery index; -1 where it is not in the gallery."""
    rest: np.ndarray
    """The gallery indices of the images in no segment, rising."""


def plan_segments(keys: Sequence[str], known: Sequence[Segment], *, most: int) -> Plan:
    """The segments of a gallery of images with these keys; ``most`` images of a new one."""
    wanted = set(keys)
    alive = [len(wanted.intersection(segment.keys)) for segment in known]
    kept = [s for s, left in zip(known, alive, strict=True) if 2 * left >= len(s.keys)]
    place_of, rest = _placed(keys, kept)
    while len(rest) > COMPARED_IMAGES and kept:
        count, number = min((int((place_R >= 0).sum()), n) for n, place_R in enumerate(place_of))
        if count > len(rest):
            break
        del kept[number]
        place_of, rest = _placed(keys, kept)
    new = []
    while len(rest) > COMPARED_IMAGES:
        new.append(rest[:most])
        rest = rest[most:]
    return Plan(tuple(kept), tuple(new), tuple(place_of), rest)


def _placed(
    keys: Sequence[str], segments: Sequence[Segment]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The gallery index of each segment's images, and the indices that are left; of several images
    with one key each is in one place."""
    places: defaultdict[str, deque[int]] = defaultdict(deque)
    for place, key in enumerate(keys):
        places[key].append(place)
    found = [
        np.array([places[key].popleft() if places.get(key) else -1 for key in s.keys], np.int32)
        for s in segments
    ]
    return found, np.array(sorted(i for left in places.values() for i in left), np.int32)


def is_approximate(method: LocalMethod, images: int) -> bool:
    """Whether a gallery of so many images is searched by segments: a GPU, and a search that is to
    be exact, compares all."""
    auto = method.config.benchmark.index_search == "auto"
    on_cpu = method.matchers.device == "cpu"
    return auto and on_cpu and AVAILABLE and images > COMPARED_IMAGES


class IndexSegments:
    """The segments of one gallery, which are built when they are first asked."""

    def __init__(self, method: LocalMethod, gallery: RetrievalSide, keep: int) -> None:
        """``keep``: images of each keypoint, as `LocalIndex` has it."""
        self.method, self.gallery, self.keep = method, gallery, keep
        self.keys = [method.images.keys[i] for i in gallery.position_N]
        described = {
            "stage": "index segments",
            "stage_version": VERSION,
            "local": method.images.description,
        }
        self.folder = stage_folder(cache_folder(method.config), "segments", described)
        self.stored = method.images.segments
        known = [] if self.stored is None else stored_segments(self.stored)
        most = max(SEGMENT_DESCRIPTORS // method.config.benchmark.local_top_k, 1)
        self.plan = plan_segments(self.keys, known, most=most)
        names = [keys_fingerprint(segment.keys) for segment in self.plan.known]
        names += [keys_fingerprint([self.keys[i] for i in place_R]) for place_R in self.plan.new]
        self.names = names
        """What the answers depend on besides the gallery."""
        self._placed: list[tuple[Segment, np.ndarray]] | None = None

    def segments(self) -> list[tuple[Segment, np.ndarray]]:
        """Each segment, and the gallery index of its images: -1 where it does not have one."""
        if self._placed is None:
            plan = self.plan
            built = self._built(plan.new)
            self._placed = [
                *zip(plan.known, plan.place_of_known, strict=True),
                *zip(built, plan.new, strict=True),
            ]
            store = self.method.images.store.store
            for segment, _ in self._placed:
                store.check_singly(dict(zip(segment.keys, segment.sums, strict=True)))
        return self._placed

    def _built(self, place_SR: Sequence[np.ndarray]) -> list[Segment]:
        """The segment of each of these lists of gallery indices, from the cache or built."""
        clear_leftovers(self.folder)
        mirror.synchronise(self.folder, "segment-*.json", beside=".faiss")
        keys_S = [[self.keys[i] for i in place_R] for place_R in place_SR]
        found = [self._cached(keys) for keys in keys_S]
        missing = [number for number, segment in enumerate(found) if segment is None]
        none = np.zeros(0, np.int64)
        tiles = [
            Tile(
                number,
                none,
                none,
                self.gallery.position_N[place_SR[number]],
                np.stack([np.arange(len(place_SR[number])), place_SR[number]], 1).astype(np.int32),
            )
            for number in missing
        ]
        advance = self.method.progress("Building the index", sum(map(len, self.plan.new)))
        ask = partial(build_segment, keys=self.keys, folder=self.folder)
        for tile, file in ask_tiles(self.method, iter(tiles), ask):
            found[tile.number] = read_segment(file)
            advance(len(tile.gallery_M))
        whole = [segment for segment in found if segment is not None]
        if len(whole) < len(found):
            raise MatchingError(
                f"{self.folder}: a segment of the index is not as it was written. Check the disk, "
                "and run the same command again."
            )
        return whole

    def _cached(self, keys: Sequence[str]) -> Segment | None:
        for file in sorted(self.folder.glob(f"segment-{keys_fingerprint(keys)}-*.json")):
            segment = read_segment(file)
            if segment is not None and list(segment.keys) == list(keys):
                return segment
            set_aside([file], ".faiss")
        return None

    def candidates(
        self,
        queries: LocalFeatures,
        position_Q: np.ndarray,
        left_out: Sequence[np.ndarray],
        *,
        only: np.ndarray | None = None,
    ) -> NearestImages:
        """What the segments find for these images, by exact distances; images are gallery indices.
        ``left_out``: those that do not answer each query. ``only``: as `search_segment` has it."""
        parts: list[list[NearestImages]] = [[] for _ in position_Q]
        images = self.keep + SPARE
        wide = DESCRIPTORS * images
        for segment, place_R in self.segments():
            row_G = np.full(len(self.gallery) + 1, -1)
            row_G[place_R] = np.arange(len(place_R))
            gone = np.flatnonzero(place_R < 0)
            out = [np.union1d(gone, row_G[g][row_G[g] >= 0]).astype(np.int32) for g in left_out]
            asked = partial(search_segment, segment=segment.file, images=len(segment.keys))
            ask = partial(asked, keep=wide, only=only)
            for tile, answer in ask_tiles(self.method, _query_tiles(position_Q, out), ask):
                image_QKC = np.where(answer.image_QKC >= 0, place_R[answer.image_QKC], -1)
                near = replace(answer, image_QKC=image_QKC.astype(np.int32))
                for row, q in enumerate(tile.place_P.tolist()):
                    parts[q].append(near.take(np.array([row])))
        found = NearestImages.joined([nearest_of(part, wide) for part in parts])
        store, keys = self.method.images.store.store, self.keys
        return with_exact_distances(
            queries, found, lambda image: store.view(keys[image])["descriptors"], images
        )

    def recall(self) -> dict[str, int] | None:
        """The measured recall of these segments: how many nearest images were asked for, and how
        many of them found; None where it was not measured."""
        for folder in (self.folder, *([] if self.stored is None else [self.stored])):
            file = mirror.local_copy(folder / self._recall_name)
            if file.is_file():
                counts = read_json(file, error=CacheError, remedy="Delete this file.")
                try:
                    return {name: int(counts[name]) for name in ("asked", "found")}
                except (KeyError, TypeError, ValueError) as error:
                    raise CacheError(f"{file}: has no counts. Delete this file.") from error
        return None

    @property
    def are_stored(self) -> bool:
        """Whether all are a gallery's: to measure them would take all of its features."""
        return self.stored is not None and not self.plan.new

    def keep_recall(self, asked: int, found: int) -> None:
        """Write it for later runs."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / self._recall_name
        with written_whole(file) as temporary:
            temporary.write_text(json.dumps({"asked": asked, "found": found}) + "\n")
        mirror.put(file)

    @property
    def _recall_name(self) -> str:
        described = {"segments": self.names, "keep": self.keep, "version": VERSION}
        return f"recall-{describe_fingerprint(described)}.json"

    def files(self) -> list[Path]:
        """The files that a gallery keeps."""
        files = [segment.file.with_suffix(end) for segment, _ in self.segments() for end in ENDINGS]
        recalls = [folder / self._recall_name for folder in (self.folder, self.stored) if folder]
        return [*files, *[file for file in recalls if file.is_file()][:1]]


ENDINGS = (".faiss", ".json")


def stored_segments(folder: Path) -> list[Segment]:
    """The segments in a gallery's folder; GalleryError where one is damaged. Those of an earlier
    format are left out, with a warning: their images are in no segment, and get one in the cache.
    """
    segments, earlier = [], 0
    for file in sorted(folder.glob("segment-*.json")):
        segment = read_segment(file)
        if segment is None:
            raise GalleryError(
                f"{file}: is damaged: not the bytes that were written. Get the gallery again, or "
                "build it again."
            )
        if segment.format == FORMAT:
            segments.append(segment)
        else:
            earlier += len(segment.keys)
    if earlier:
        log.warning(
            "%s: the index of %s is of an earlier exreid, and is built again for this run. Build "
            "the gallery again, or add a photograph to it, to keep the new one.",
            folder,
            counted(earlier, "photograph"),
        )
    return segments


def _query_tiles(position_Q: np.ndarray, out: Sequence[np.ndarray]) -> Iterator[Tile]:
    """Queries some at a time, and the (query, row) that are left out of their search."""
    for number, start in enumerate(range(0, len(position_Q), QUERIES_PER_TILE)):
        mine = np.arange(start, min(start + QUERIES_PER_TILE, len(position_Q)))
        pairs = [np.stack([np.full(len(out[q]), q - start), out[q]], 1) for q in mine.tolist()]
        pair_P2 = np.concatenate(pairs).astype(np.int32)
        yield Tile(number, mine, position_Q[mine], np.zeros(0, np.int64), pair_P2)


def ask_tiles(
    method: LocalMethod, tiles: Iterator[Tile], ask: Ask[Answer]
) -> Iterator[tuple[Tile, Answer]]:
    """Each tile with what the index's matcher answers, in any order; MatchingError where a tile was
    given up."""
    failed = list[tuple[Tile, str]]()
    make = MakeMatcher("", NearestSettings(), method.matchers.device)
    yield from method.matchers.run(tiles, make, ask, method.features_of, failed=failed)
    if failed:
        images = np.concatenate([(*tile.query_M, *tile.gallery_M) for tile, _ in failed])
        names = sorted({method.image_ids[i] for i in images.astype(int).tolist()})
        raise MatchingError(
            f"the descriptors of {counted(len(names), 'image')} could not be compared, {names[0]} "
            f"among them ({failed[0][1]}). The same command tries again."
        )
