"""The images that a training is validated on: a part of the training split, or another split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from exreid.data.metadata import select_split
from exreid.data.splits import TEST, closed_set_split, identity_disjoint_split
from exreid.errors import MetadataError
from exreid.progress import counted
from exreid.records import ImageTable


@dataclass(frozen=True)
class Holdout:
    """Positions in the table, each rising."""

    train_N: np.ndarray
    query_N: np.ndarray
    gallery_N: np.ndarray

    @property
    def validation_positions(self) -> np.ndarray:
        """The images that a validation embeds, each once."""
        return np.union1d(self.query_N, self.gallery_N)

    @property
    def all_positions(self) -> np.ndarray:
        """All positions, each once."""
        return np.union1d(self.train_N, self.validation_positions)


def cut_holdout(
    table: ImageTable,
    *,
    source: Literal["encounters", "identities", "split"],
    mode: Literal["query_gallery", "leave_one_out"],
    fraction: float,
    seed: int,
    train_value: str,
    val_value: str,
    database_value: str,
) -> Holdout:
    """The images to train on, and the queries and gallery of the validation.

    ``encounters`` holds out whole encounters of animals that stay in training, ``identities``
    whole animals; both divide the rows of ``train_value`` only. ``split`` takes the rows of
    ``val_value``, and with ``query_gallery`` those of ``database_value`` as the gallery. With
    ``leave_one_out`` the held-out images are queries and gallery.
    """
    split_N = select_split(table, train_value)
    if source == "split":
        held_N = select_split(table, val_value)
        train_N = split_N
        gallery_N = select_split(table, database_value)
    else:
        held_N, train_N = _cut(table, split_N, source, fraction, seed)
        gallery_N = train_N
    if mode == "leave_one_out":
        gallery_N = held_N
    overlap = np.intersect1d(train_N, held_N)
    if len(overlap):
        raise MetadataError(
            f"{table.source}: training uses {counted(len(overlap), 'image')} of the split "
            f"{val_value!r}. Set dataset.val_split_value to another split, or "
            "validation.source=encounters."
        )
    return Holdout(train_N, held_N, gallery_N)


def check_holdout(table: ImageTable, holdout: Holdout, *, exclude: str) -> None:
    """MetadataError if there are fewer than two animals to learn, or no query can be answered."""
    identity = table.rows["identity"].to_numpy(object)
    names = set(identity[holdout.train_N])
    if len(names) < 2:
        raise MetadataError(
            f"{table.source}: {counted(len(names), 'identity', 'identities')} to train on; a "
            "classifier needs two at least."
        )
    encounter = table.rows["encounter"].to_numpy(object)
    gallery: dict[str, list[int]] = {}
    for position in holdout.gallery_N.tolist():
        gallery.setdefault(identity[position], []).append(position)
    for query in holdout.query_N.tolist():
        for other in gallery.get(identity[query], ()):
            same_visit = encounter[query] is not None and encounter[query] == encounter[other]
            if other != query and not (exclude == "encounter" and same_visit):
                return
    raise MetadataError(
        f"{table.source}: none of the {len(holdout.query_N)} held-out images has another one of "
        f"its animal among the {len(holdout.gallery_N)} of the gallery, so no validation can "
        "succeed. Set validation.mode=leave_one_out, another validation.source, or "
        "validation.exclude=image."
    )


def _cut(
    table: ImageTable,
    split_N: np.ndarray,
    source: Literal["encounters", "identities"],
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    rows = table.rows.iloc[split_N]
    make = closed_set_split if source == "encounters" else identity_disjoint_split
    try:
        part = make(
            rows["identity"].tolist(),
            rows["encounter"].tolist(),
            test_fraction=fraction,
            seed=seed,
            image_ids=rows["image_id"].tolist(),
        )
    except MetadataError as error:
        raise MetadataError(
            f"{table.source}: validation.source={source} cannot hold out a part of the training "
            f"split: {str(error).split('. Set ')[0]}. Set validation.source to another one."
        ) from error
    held = part == TEST
    return split_N[held], split_N[~held]
