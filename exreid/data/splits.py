"""Splits for tables that have none: closed set, identity-disjoint, time-aware.

Every split moves whole encounters. An image whose encounter is not known is one by itself; an
encounter of several animals stays in one piece.
"""

from __future__ import annotations

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
) -> np.ndarray:
    """Random encounters of each identity to test; every identity keeps some in train.

    An identity with one encounter is in train alone. Returns "train" or "test" per image (N,).
    """
    random = np.random.default_rng(seed)
    order = dict(_shuffled(_groups(encounters), random))
    return _last_encounters(identities, encounters, order, test_fraction)


def time_aware_split(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    dates: np.ndarray,
    *,
    test_fraction: float,
) -> np.ndarray:
    """The latest encounters of each identity to test, the earlier ones to train.

    An encounter's time is its latest date; without any date it counts as earliest, and ties fall
    to the order of rows. MetadataError where no image has a date.
    """
    groups = _groups(encounters)
    stamps = np.asarray(dates, dtype="datetime64[s]")
    if np.isnat(stamps).all():
        raise MetadataError(
            "a time-aware split needs dates, and no row has one. Set dataset.date_col, or "
            "dataset.make_split=closed_set."
        )
    seconds = np.where(np.isnat(stamps), np.iinfo(np.int64).min, stamps.astype(np.int64))
    latest: dict[str, tuple[int, int]] = {}
    for i, name in enumerate(groups):
        latest[name] = max(latest.get(name, (np.iinfo(np.int64).min, i)), (int(seconds[i]), i))
    order = {name: number for number, name in enumerate(sorted(latest, key=lambda n: latest[n]))}
    return _last_encounters(identities, encounters, order, test_fraction)


def identity_disjoint_split(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    *,
    test_fraction: float,
    seed: int = 0,
) -> np.ndarray:
    """Whole identities to test, none of which is in train (open set).

    Identities that share an encounter go together. MetadataError where all hang together.
    """
    blocks = _connected(list(identities), _groups(encounters))
    names = [name for name, _ in _shuffled(blocks, np.random.default_rng(seed))]
    if len(names) < 2:
        raise MetadataError(
            "an identity-disjoint split needs two identities that share no encounter; there is "
            f"{len(names)}. Set dataset.make_split=closed_set."
        )
    sizes = {name: blocks.count(name) for name in names}
    chosen: set[str] = set()
    wanted = test_fraction * len(blocks)
    for name in names[:-1]:
        if chosen and sum(sizes[c] for c in chosen) + sizes[name] / 2 > wanted:
            continue
        chosen.add(name)
    return np.array([TEST if block in chosen else TRAIN for block in blocks], dtype=object)


def _last_encounters(
    identities: Sequence[str | None],
    encounters: Sequence[str | None],
    order: dict[str, int],
    test_fraction: float,
) -> np.ndarray:
    """Each identity's last encounters in ``order`` to test, about the fraction of its images."""
    groups = _groups(encounters)
    split = dict.fromkeys(groups, TRAIN)
    members: dict[str, list[str]] = {}
    for identity, group in zip(identities, groups, strict=True):
        if identity is not None:
            members.setdefault(identity, []).append(group)
    kept_in_train: set[str] = set()
    for identity in sorted(members):
        names = sorted(set(members[identity]), key=lambda name: order[name])
        # The earliest stays in train for this identity, whatever other animals share it.
        kept_in_train.add(next((n for n in names if split[n] == TRAIN), names[0]))
        wanted, taken = test_fraction * len(members[identity]), 0
        for name in reversed(names[1:]):
            size = members[identity].count(name)
            if name in kept_in_train or (taken and taken + size / 2 > wanted):
                continue
            split[name] = TEST
            taken += size
    return np.array([split[name] for name in groups], dtype=object)


def _groups(encounters: Sequence[str | None]) -> list[str]:
    """A name for each image's encounter; an unknown one is the image's own."""
    return [
        f"row {i}" if name is None else f"encounter {name}" for i, name in enumerate(encounters)
    ]


def _shuffled(names: list[str], random: np.random.Generator) -> list[tuple[str, int]]:
    unique = sorted(set(names))
    return [(unique[place], number) for number, place in enumerate(random.permutation(len(unique)))]


def _connected(identities: list[str | None], groups: list[str]) -> list[str]:
    """A name per image, shared by all identities that hang together through encounters."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for identity, group in zip(identities, groups, strict=True):
        left, right = root(f"identity {identity}" if identity else group), root(group)
        parent[max(left, right)] = min(left, right)
    return [root(group) for group in groups]
