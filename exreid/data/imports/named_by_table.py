"""Boxes and masks of another program, with the cells of a table that names their animals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from exreid.data.imports.animals import Animal, Reading
from exreid.data.imports.columns import read_columns
from exreid.data.imports.finish import finished
from exreid.data.imports.photographs import find_photographs
from exreid.errors import MetadataError
from exreid.progress import counted


def with_table(reading: Reading, cells: pd.DataFrame, root: str, source: str) -> Reading:
    """The reading's boxes and masks with a table's cells on their photographs.

    A row names the animal of its photograph. Where a photograph has several, a row names that of
    its ``image_id``, and the others are left out. Photographs of the table without a box or mask
    are kept whole. MetadataError for an ``image_id`` that none of several animals has.
    """
    path_of = find_photographs(root, [animal.path for animal in reading.animals]).path_of
    by_path: dict[str, list[Animal]] = {}
    for animal in reading.animals:
        path = path_of.get(animal.path, animal.path)
        by_path.setdefault(path, []).append(replace(animal, path=path))
    table = read_columns(cells, range(2, len(cells) + 2), box_format="xywh_px").animals
    several = {path: by_path.pop(path) for path, group in [*by_path.items()] if len(group) > 1}
    wanted = {row.path for row in table if row.path in several and row.cells.get("image_id")}
    by_id = _by_id([animal for path in wanted for animal in several[path]], root, source)
    kept: list[Animal] = []
    whole = named = 0
    for row in table:
        animals = by_path.pop(row.path, [])
        if row.path in several:
            if image_id := row.cells.get("image_id"):
                if image_id not in by_id:
                    raise MetadataError(
                        f"{row.place} of the table: no animal has the image_id {image_id!r}, or "
                        f"two rows name it. {source} has {len(several[row.path])} animals on "
                        f"{row.path}: exreid import without --table writes their image_id."
                    )
                kept.append(_named(by_id.pop(image_id), row))
                named += 1
        elif animals:
            kept.append(_named(animals[0], row))
        else:
            whole += row.box is None and row.mask is None
            kept.append(row)
    left_out = reading.left_out.copy()
    in_table = {row.path for row in table}
    in_table_count = sum(len(group) for path, group in several.items() if path in in_table)
    left_out["animals on photographs with several, that no image_id of the table names"] += (
        in_table_count - named
    )
    gone = [*by_path.values(), *(group for path, group in several.items() if path not in in_table)]
    left_out["animals on photographs that the table does not have"] += sum(map(len, gone))
    notes = [*reading.notes]
    if whole:
        has = counted(whole, "photograph of the table has", "photographs of the table have")
        notes.append(f"{has} no box or mask: taken whole")
    return replace(reading, animals=kept, left_out=+left_out, notes=notes)


def _named(animal: Animal, row: Animal) -> Animal:
    """The animal with the cells of a table's row, and the row's mask if it has none."""
    own = {key: value for key, value in animal.cells.items() if value}
    return replace(animal, cells={**row.cells, **own}, mask=animal.mask or row.mask)


def _by_id(animals: Sequence[Animal], root: str, source: str) -> dict[str, Animal]:
    """The animals by the image_id that an import without the table gives them."""
    if not animals:
        return {}
    place = "place among animals"
    marked = [
        replace(animal, cells={**animal.cells, place: str(i)}) for i, animal in enumerate(animals)
    ]
    cells = finished(Reading("", marked), root, source, skip=True).cells
    return {
        str(name): animals[int(i)] for name, i in zip(cells["image_id"], cells[place], strict=True)
    }
