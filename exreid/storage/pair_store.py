"""What was matched before: the evidence of each pair, by the contents of its two images.

A store is a folder for one matcher with one setting. Each process that adds to it writes one log,
``part-*.pairs``, a frame for each finished tile: a count, a checksum, then the records. A killed
process leaves a torn frame at most, which is passed over, as damaged ones are; the pairs of all
whole frames are never matched again. Several processes can add at the same time. Where the folder
is the copy of a URL, logs are uploaded every `PUBLISH_EVERY_S`, and a full one is followed by
another.

Letters: P pairs, N images.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exreid.errors import CacheError
from exreid.records import PairEvidence
from exreid.storage import mirror

log = logging.getLogger(__name__)

RECORD = np.dtype(
    [
        ("key_a", "<u8"),
        ("key_b", "<u8"),
        ("confidence_sum", "<f8"),
        ("match_count", "<i4"),
        ("inlier_count", "<i4"),
    ]
)
PUBLISH_EVERY_S = 20.0
FULL_BYTES = 8 * 2**20
"""Of a log that goes to a URL: there it is written whole each time."""
FRAME = struct.Struct("<4sII")
MAGIC = b"xpr1"


def image_words(keys: Sequence[str]) -> np.ndarray:
    """128 bits of each image's key (`exreid.features.keys.image_key`) as uint64 (N, 2)."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.frombuffer(digests, "<u8").reshape(-1, 2)


def pair_words(query_words_P2: np.ndarray, gallery_words_P2: np.ndarray) -> np.ndarray:
    """128 bits of each ordered pair of images as uint64 (P, 2)."""
    return _mixed(query_words_P2 + _mixed(gallery_words_P2))


def pair_records(words_P2: np.ndarray, evidence: PairEvidence) -> np.ndarray:
    """Pairs and their evidence as a file has them: `RECORD` (P,)."""
    records = np.zeros(len(words_P2), RECORD)
    records["key_a"], records["key_b"] = words_P2[:, 0], words_P2[:, 1]
    records["confidence_sum"] = evidence.confidence_sum_P
    records["match_count"] = evidence.match_count_P
    records["inlier_count"] = evidence.inlier_count_P
    return records


class PairStore:
    """Evidence by pair; see the module's docstring for the files."""

    def __init__(self, folder: Path, *also: Path) -> None:
        """Pairs are added to ``folder``, and found in those of ``also`` too."""
        self.folder = folder
        mirror.synchronise(folder, "part-*.pairs")
        files = [part for place in (folder, *also) for part in sorted(place.glob("part-*.pairs"))]
        parts = [read_log(file) for file in files]
        records = np.concatenate([np.zeros(0, RECORD), *parts])
        self._records, self._fresh = records[:0], [records]
        self._take_in_fresh()
        self._log: Path | None = None
        self._published_s = time.monotonic()

    def __len__(self) -> int:
        """Records that the store had when it was opened, and those added through it."""
        return len(self._records) + sum(map(len, self._fresh))

    def find(self, words_P2: np.ndarray) -> tuple[np.ndarray, PairEvidence]:
        """Which pairs are known (bool), and the evidence of all; of unknown ones, zeros."""
        self._take_in_fresh()
        known_P = np.zeros(len(words_P2), bool)
        found_P = np.zeros(len(words_P2), RECORD)
        if len(self._records):
            place_P = np.searchsorted(self._records["key_a"], words_P2[:, 0])
            found_P = self._records[np.minimum(place_P, len(self._records) - 1)]
            known_P = (found_P["key_a"] == words_P2[:, 0]) & (found_P["key_b"] == words_P2[:, 1])
            found_P[~known_P] = np.zeros(1, RECORD)
        evidence = PairEvidence(
            found_P["match_count"].copy(),
            found_P["confidence_sum"].copy(),
            found_P["inlier_count"].copy(),
        )
        return known_P, evidence

    def append(self, words_P2: np.ndarray, evidence: PairEvidence) -> None:
        """Add a finished tile to this process's log; it is whole in the file afterwards."""
        self.append_records(pair_records(words_P2, evidence))

    def append_records(self, records: np.ndarray) -> None:
        """As `append`, of `RECORD` (P,)."""
        data = records.tobytes()
        if self._log is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"part-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.pairs"
            self._log = self.folder / name
        frame = FRAME.pack(MAGIC, len(records), zlib.crc32(data)) + data
        try:
            with self._log.open("ab") as stream:
                stream.write(frame)
        except OSError as error:
            log, self._log = self._log, None
            raise CacheError(
                f"{log}: {error.strerror or error}. Every tile finished before is kept; "
                "make room and run the same command again."
            ) from error
        self._fresh.append(records)
        if time.monotonic() - self._published_s > PUBLISH_EVERY_S:
            self.publish()

    def publish(self) -> None:
        """Upload the log to the folder's URL, where it has one."""
        if self._log is not None and mirror.url_of(self._log) is not None:
            mirror.put(self._log)
            self._published_s = time.monotonic()
            if self._log.stat().st_size > FULL_BYTES:
                self._log = None

    def _take_in_fresh(self) -> None:
        if self._fresh:
            records = np.concatenate([self._records, *self._fresh])
            self._records, self._fresh = records[np.argsort(records["key_a"], kind="stable")], []


def read_log(file: Path) -> np.ndarray:
    """The records of all whole frames, with a warning of damaged bytes between them. After the last
    one there may be a part of a frame, which a killed process was writing."""
    data = file.read_bytes()
    parts, end, damaged = [np.zeros(0, RECORD)], 0, 0
    at = data.find(MAGIC)
    while 0 <= at <= len(data) - FRAME.size:
        _, count, checksum = FRAME.unpack_from(data, at)
        body = data[at + FRAME.size : at + FRAME.size + count * RECORD.itemsize]
        if len(body) < count * RECORD.itemsize or zlib.crc32(body) != checksum:
            # Its length may be what is wrong: the next frame is looked for from here on.
            at = data.find(MAGIC, at + 1)
            continue
        parts.append(np.frombuffer(body, RECORD))
        damaged += at - end
        end = at + FRAME.size + len(body)
        at = data.find(MAGIC, end)
    if damaged:
        log.warning(
            "%s: %d bytes of it are damaged; their pairs are matched again. Check the disk.",
            file,
            damaged,
        )
    return np.concatenate(parts)


def _mixed(words: np.ndarray) -> np.ndarray:
    """Stafford's variant 13 of the 64-bit finaliser of MurmurHash3, as in SplitMix64
    (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators")."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
