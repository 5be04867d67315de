"""Splits for tables that have none: closed set, identity-disjoint, time-aware.

Every split moves whole encounters, also those of several animals. An image of unknown encounter is
an encounter by itself. The order of the rows does not matter if ``image_ids`` are given (without
them, images of unknown encounter are named by their row).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from exreid.errors import MetadataError

TRAIN, TEST = "train", "test"


def closed_set_split(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    *,
    test_fraction: float,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> np.ndarray:
    """Random encounters of each identity to test; every identity keeps at least one in train.

    ``test_fraction`` is of the images of identities with two encounters or more; those with a
    single encounter, and images of unknown identity, stay in train. Returns "train" or "test"
    per image (N,). Raises MetadataError if nothing can go to test.
    """
    groups = _groups(encounters, image_ids)
    order = dict(_shuffled(groups, seed))
    return _latest_to_test(identities, groups, order, _checked(test_fraction))


def time_aware_split(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    dates: np.ndarray | None = None,
    *,
    test_fraction: float,
    image_ids: Sequence[str] | None = None,
) -> np.ndarray:
    """The latest encounters of each identity to test, the earlier ones to train.

    An encounter's time is its latest date. Encounters without a date come first; ties are broken by
    the encounter's name, numbers in it read as numbers. If no image has a date, the order is that
    of the names: right only if encounters were numbered in the order of time. Otherwise as
    `closed_set_split`; MetadataError also if there are neither dates nor encounters.
    """
    stamps = np.full(len(identities), "NaT") if dates is None else dates
    stamps = np.asarray(stamps, dtype="datetime64[s]")
    if np.isnat(stamps).all() and not any(encounters):
        raise MetadataError(
            "a time-aware split needs dates or encounters, and no row has one. Set "
            "dataset.date_col or dataset.encounter_cols, or dataset.make_split=closed_set."
        )
    groups = _groups(encounters, image_ids)
    seconds = np.where(np.isnat(stamps), np.iinfo(np.int64).min, stamps.astype(np.int64))
    latest: dict[str, int] = {}
    for name, second in zip(groups, seconds.tolist(), strict=True):
        latest[name] = max(latest.get(name, second), second)
    in_time = sorted(latest, key=lambda name: (latest[name], _natural(name)))
    order = {name: place for place, name in enumerate(in_time)}
    return _latest_to_test(identities, groups, order, _checked(test_fraction))


def identity_disjoint_split(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    *,
    test_fraction: float,
    seed: int = 0,
    image_ids: Sequence[str] | None = None,
) -> np.ndarray:
    """Whole identities to test, none of which is in train (open set).

    Identities that share an encounter go together; images of unknown identity stay in train,
    unless their encounter goes to test. ``test_fraction`` is of the images. Returns "train" or
    "test" per image (N,). Raises MetadataError if all identities are connected by encounters.
    """
    wanted = _checked(test_fraction) * len(identities)
    blocks = _connected(identities, _groups(encounters, image_ids))
    sizes = Counter(blocks)
    named = [block for block, name in zip(blocks, identities, strict=True) if name is not None]
    order = [name for name, _ in _shuffled(named, seed)]
    if len(order) < 2:
        raise MetadataError(
            "an identity-disjoint split needs two identities that share no encounter; there is "
            f"{len(order)}. Set dataset.make_split=closed_set."
        )
    chosen: set[str] = set()
    tested = 0
    for name in order:
        if tested + sizes[name] / 2 <= wanted and len(chosen) < len(order) - 1:
            chosen.add(name)
            tested += sizes[name]
    if not chosen:  # each is larger than test should be
        chosen.add(min(order, key=lambda name: sizes[name]))
    return np.array([TEST if block in chosen else TRAIN for block in blocks], dtype=object)


def _latest_to_test(
    identities: Sequence[str | None],
    groups: Sequence[str],
    order: dict[str, int],
    test_fraction: float,
) -> np.ndarray:
    """Each identity's last encounters in ``order`` to test, all of one before any of an earlier.

    An encounter of several animals goes only if it is the last in train of each of them, and each
    has another one in train.
    """
    size, images_of = Counter(groups), Counter(identities)
    animals_in: dict[str, set[str]] = {}
    for identity, group in zip(identities, groups, strict=True):
        if identity is not None:
            animals_in.setdefault(group, set()).add(identity)
    in_train: dict[str, list[str]] = {}
    for group in sorted(animals_in, key=lambda name: order[name]):
        for identity in animals_in[group]:
            in_train.setdefault(identity, []).append(group)
    in_test: set[str] = set()
    tested, wanted = 0, 0.0
    for identity in sorted(name for name, own in in_train.items() if len(own) > 1):
        wanted += test_fraction * images_of[identity]
        while True:
            last = in_train[identity][-1]
            if any(len(in_train[a]) < 2 or in_train[a][-1] != last for a in animals_in[last]):
                wanted = min(wanted, float(tested))  # other animals do not make up for it
                break
            if in_test and tested + size[last] / 2 > wanted:
                break
            in_test.add(last)
            tested += size[last]
            for animal in animals_in[last]:
                in_train[animal].pop()
    if not in_test:
        raise MetadataError(
            "no encounter can go to test: each identity needs two encounters, one of them to "
            "stay in train. Set dataset.make_split=identity_disjoint."
        )
    return np.array([TEST if group in in_test else TRAIN for group in groups], dtype=object)


def _checked(test_fraction: float) -> float:
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie between 0 and 1, not {test_fraction}.")
    return test_fraction


def _groups(encounters: Sequence[str | None], image_ids: Sequence[str] | None) -> list[str]:
    """A name for each image's encounter; the image's id if that is unknown."""
    alone = image_ids if image_ids is not None else [str(i) for i in range(len(encounters))]
    return [
        f"image {own}" if name is None else f"encounter {name}"
        for name, own in zip(encounters, alone, strict=True)
    ]


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in a text as numbers.

    >>> sorted(["visit 10", "visit 9"], key=_natural)
    ['visit 9', 'visit 10']
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts]


def _shuffled(names: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """The distinct names in random order, each with its index."""
    unique = sorted(set(names))
    order = np.random.default_rng(seed).permutation(len(unique))
    return [(unique[index], place) for place, index in enumerate(order.tolist())]


def _connected(identities: Sequence[str | None], groups: Sequence[str]) -> list[str]:
    """A name per image, shared by all identities that are connected through encounters."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for identity, group in zip(identities, groups, strict=True):
        own = group if identity is None else f"identity {identity}"
        left, right = root(own), root(group)
        parent[max(left, right)] = min(left, right)
    return [root(group) for group in groups]
