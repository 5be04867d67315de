"""Photographs that are copies of one another, by their prints, without comparing all pairs, in
bounded memory.

Two steps. Candidates are pairs whose 64-bit hashes differ in at most `HASH_BITS` bits (the signs of
a print's lowest frequencies about their median: Zauner 2010, "Implementation and benchmarking of
perceptual image hash functions"). All of them are found: of four bands of 16 bits at least one
differs in at most one bit, so that each band is looked up with its 17 neighbours (multi-index
hashing: Norouzi, Punjani & Fleet 2012). A hash describes the scene alone, and a fixed camera takes
one scene with many animals; so a candidate is a copy only if the prints themselves agree
everywhere.

Letters: N images, Q queries, G gallery images, P pairs, S side of a print.
"""

from __future__ import annotations

import math

import numpy as np

HASH_BITS = 7
MEAN_DISTANCE = 0.2
"""Root of the mean squared difference of two normalised prints, up to which they may be copies.
Of 401 photographs, written again as JPEG of quality 30, or at half the size, or with noise of 10
grey levels, none was above 0.14."""
MOST_DISTANCE = 0.8
"""The largest difference of a single pixel of the normalised prints: where only one of the
photographs shows an animal, they differ by more. Two animals of a tenth to a third of the frame's
width, pasted before the same background, passed in 3 of 1,500 pairs; copies of half the size in all
but 2 of 401."""
BLANK_LEVELS = 5.0
"""Standard deviation, in grey levels of 255, below which a print shows nothing: all black frames
are alike."""
MOST_NEAR = 100
"""The number of candidates of each query, those with the nearest hashes, that are compared."""
BANDS = 4
BLOCK_CANDIDATES = 4_000_000
PRINTS_AT_A_TIME = 2048


def print_hashes(print_NSS: np.ndarray) -> np.ndarray:
    """64 bits of each print, uint64 (N,).

    >>> rising = np.tile(np.arange(32, dtype=np.uint8), (32, 1))
    >>> dark_hash, bright_hash = print_hashes(np.stack([rising // 2 + 9, rising]))
    >>> int(np.bitwise_count(dark_hash ^ bright_hash))
    0
    """
    side = print_NSS.shape[-1]
    frequency, place = np.arange(8)[:, None], np.arange(side)[None, :]
    cosine_8S = np.cos(np.pi * frequency * (2 * place + 1) / (2 * side))
    hashes = [np.zeros(0, np.uint64)]
    for start in range(0, len(print_NSS), PRINTS_AT_A_TIME):
        part = print_NSS[start : start + PRINTS_AT_A_TIME].astype(np.float64)
        # Rounded, so that a value of nothing but rounding errors has no sign.
        low_N64 = np.round((cosine_8S @ part @ cosine_8S.T).reshape(-1, 64), 6)
        bit_N64 = low_N64 > np.median(low_N64[:, 1:], axis=1, keepdims=True)
        hashes.append(np.packbits(bit_N64, axis=1).view(">u8").ravel().astype(np.uint64))
    return np.concatenate(hashes)


def is_blank(print_NSS: np.ndarray) -> np.ndarray:
    """bool (N,): prints without contrast, which are compared with none."""
    flat = print_NSS.reshape(len(print_NSS), math.prod(print_NSS.shape[1:]))
    mean_N = flat.mean(axis=1)
    # The sums are of whole numbers: no float copy of all prints is made.
    square_N = np.einsum("ns,ns->n", flat, flat, dtype=np.int64) / flat.shape[1]
    return np.asarray(np.sqrt(np.maximum(square_N - mean_N**2, 0)) < BLANK_LEVELS)


def near_hashes(hash_Q: np.ndarray, hash_G: np.ndarray, nearest: int = MOST_NEAR) -> np.ndarray:
    """Pairs whose hashes differ in at most `HASH_BITS` bits, int64 (P, 2), by query, the nearest
    first and then by gallery index; of each query at most ``nearest``."""
    # Equal hashes are looked up once: a thousand frames of one scene often share theirs.
    query_U, unique_Q = np.unique(hash_Q, return_inverse=True)
    other_V, unique_G = np.unique(hash_G, return_inverse=True)
    member_G = np.argsort(unique_G, kind="stable")
    size_V = np.bincount(unique_G, minlength=len(other_V))
    start_V = np.cumsum(size_V) - size_V
    pair_P2, distance_P = _near_unique(query_U, other_V)
    # No more than `nearest` images of one hash can be among the nearest.
    row, nth = _repeated(np.minimum(size_V, nearest)[pair_P2[:, 1]])
    index = member_G[start_V[pair_P2[row, 1]] + nth]
    order = np.lexsort((index, distance_P[row], pair_P2[row, 0]))
    query, index = pair_P2[row, 0][order], index[order]
    kept = np.arange(len(query)) - np.searchsorted(query, query) < nearest
    query, index = query[kept], index[kept]
    count_U = np.bincount(query, minlength=len(query_U))
    row, nth = _repeated(count_U[unique_Q])
    first_U = np.cumsum(count_U) - count_U
    return np.stack([row, index[first_U[unique_Q[row]] + nth]], axis=1)


def _near_unique(hash_Q: np.ndarray, hash_G: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of near hashes, and the bits by which they differ."""
    tables = [_BandTable(_band(hash_G, band)) for band in range(BANDS)]
    pairs, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    step = max(1, BLOCK_CANDIDATES // max(len(hash_G), 1))
    for start in range(0, len(hash_Q), step):
        block = hash_Q[start : start + step]
        for band, table in enumerate(tables):
            query, other = table.candidates(_band(block, band))
            differing = block[query] ^ hash_G[other]
            close = np.bitwise_count(differing) <= HASH_BITS
            for earlier in range(band):
                close &= np.bitwise_count(_band(differing, earlier)) > 1
            pairs.append(np.stack([query[close] + start, other[close]], axis=1))
            distances.append(np.bitwise_count(differing[close]).astype(np.int64))
    return np.concatenate(pairs), np.concatenate(distances)


def _repeated(count_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each index, repeated ``count_N`` times, and a running number 0, 1, 2, ... within each."""
    row = np.repeat(np.arange(len(count_N)), count_N)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count_N) - count_N, count_N)


def find_copies(print_QSS: np.ndarray, print_GSS: np.ndarray) -> np.ndarray:
    """Pairs of a query and a gallery image that are copies, int64 (P, 2), by query, the nearest
    hashes first. An image on both sides is a pair with itself, too."""
    seen_Q, seen_G = np.flatnonzero(~is_blank(print_QSS)), np.flatnonzero(~is_blank(print_GSS))
    pair_P2 = near_hashes(print_hashes(print_QSS[seen_Q]), print_hashes(print_GSS[seen_G]))
    pair_P2 = np.stack([seen_Q[pair_P2[:, 0]], seen_G[pair_P2[:, 1]]], axis=1)
    agree = [np.zeros(0, bool)]
    for start in range(0, len(pair_P2), PRINTS_AT_A_TIME):
        part = pair_P2[start : start + PRINTS_AT_A_TIME]
        agree.append(prints_agree(print_QSS[part[:, 0]], print_GSS[part[:, 1]]))
    return pair_P2[np.concatenate(agree)]


def prints_agree(first_PSS: np.ndarray, second_PSS: np.ndarray) -> np.ndarray:
    """bool (P,): the prints agree on average and everywhere, each normalised to mean 0 and
    standard deviation 1, so that neither brightness nor contrast counts."""
    difference = _normalised(first_PSS) - _normalised(second_PSS)
    mean = np.sqrt((difference**2).mean(axis=1))
    return np.asarray((mean <= MEAN_DISTANCE) & (np.abs(difference).max(axis=1) <= MOST_DISTANCE))


class _BandTable:
    """Gallery indices by their 16 bits of one band."""

    def __init__(self, word_G: np.ndarray) -> None:
        self.order = np.argsort(word_G, kind="stable")
        self.start = np.concatenate([[0], np.cumsum(np.bincount(word_G, minlength=65536))])
        self.masks = np.concatenate([[0], 1 << np.arange(16)]).astype(np.int64)

    def candidates(self, word_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Query and gallery index of all pairs whose words differ in one bit at most."""
        probe = (word_B[:, None] ^ self.masks[None, :]).ravel()
        row, nth = _repeated(self.start[probe + 1] - self.start[probe])
        return row // len(self.masks), self.order[self.start[probe[row]] + nth]


def _band(hash_N: np.ndarray, band: int) -> np.ndarray:
    return ((hash_N >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)


def _normalised(print_PSS: np.ndarray) -> np.ndarray:
    flat = print_PSS.reshape(len(print_PSS), -1).astype(np.float32)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-6))
