"""The data set in a user's folder, guessed: the keys of ``dataset``, and the reasons."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from exreid.data.imports.animals import NAME, SPLIT
from exreid.data.imports.columns import roles_of
from exreid.data.imports.folder_masks import is_mask_folder
from exreid.data.imports.folders import has_animal_folders, read_folders
from exreid.data.mask_images import mask_files
from exreid.data.metadata_table import DEFAULT_FILES, Columns, read_table
from exreid.errors import MaskError, MetadataError
from exreid.progress import counted

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".xlsx")
LOOKED_AT = 20
"""The number of paths of a table that are looked for on the disk."""
SIDES = (("train", "test"), ("database", "query"), ("gallery", "query"), ("train", "val"))
"""The two values of a split: the known animals, and the queries."""


@dataclass
class Guess:
    """Keys of ``dataset`` with their values, and a sentence on each."""

    keys: dict[str, str | list[str]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Other content of the folder, and how to use it."""

    def add(self, key: str, value: str | list[str], why: str) -> None:
        """Add a key, with its reason."""
        self.keys[key], self.why[key] = value, why


def guess_dataset(folder: Path) -> Guess:
    """The data set in a folder: a table with photographs, or a folder for each animal.

    MetadataError if there is neither, or several tables and none of a known name.
    """
    root, guess = folder.expanduser().resolve(), Guess()
    guess.add("root", str(root), "the folder of the photographs")
    table = _table_in(root)
    if table is None:
        if not has_animal_folders(str(root)):
            raise MetadataError(
                f"{folder}: has no table ({', '.join(TABLE_ENDINGS)}) and no folder for each "
                "animal (ANIMAL/photo.jpg). Photographs of unknown animals are for exreid identify."
            )
        _guess_folders(guess, root)
        return guess
    cells, _ = read_table(str(root), table)
    names = [str(name) for name in cells.columns]
    try:
        roles, _ = roles_of(names, None, {})
    except MetadataError as error:
        raise MetadataError(
            f"{root / table}: {str(error).replace('--column', 'Rename:')}"
        ) from error
    default = Columns()
    inside = _folder_of_paths(root, cells[roles["path"]])
    if inside != root:
        guess.add("root", str(inside), "the folder that the table's paths begin in")
    if table not in DEFAULT_FILES or inside != root:
        guess.add("metadata_file", str(root / table), "the table")
    if roles["path"] != default.path:
        guess.add("path_col", roles["path"], "the column with the photographs' paths")
    if NAME not in roles:
        raise MetadataError(
            f"{root / table}: no column names the animals; it has {', '.join(names)}. Call it "
            f"{NAME}, or write dataset.label_col into a config by hand."
        )
    if roles[NAME] != default.identity:
        guess.add("label_col", roles[NAME], "the column with the animals' names")
    _guess_rest(guess, cells, roles, names)
    if "mask" not in roles:
        paths = [str(path) for path in cells[roles["path"]].dropna()]
        guess.notes += _mask_folders(root, inside, root / table, paths)
    return guess


def _guess_folders(guess: Guess, root: Path) -> None:
    """The keys of a folder for each animal, and of the masks among the photographs."""
    reading = read_folders(str(root))
    animals, masked = reading.animals, sum(animal.mask is not None for animal in reading.animals)
    count = len({animal.cells[NAME] for animal in animals})
    guess.add(
        "root",
        str(root),
        f"{counted(len(animals), 'photograph')} of {counted(count, 'animal')}, in folders",
    )
    guess.notes += [note for note in reading.notes if masked and "has masks" in note]
    if masked == len(animals):
        guess.add("crop", "mask", "every photograph has a mask")
    elif masked:
        guess.notes.append("dataset.crop=mask dataset.no_mask=whole uses the masks that are there")


def _mask_folders(root: Path, photographs: Path, table: Path, paths: Sequence[str]) -> list[str]:
    """The commands that add masks in folders beside the photographs to the table."""
    notes = []
    for folder in dict.fromkeys((root, photographs)):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not entry.is_dir() or not is_mask_folder(entry.name):
                continue
            try:
                count = len(mask_files(Path(entry.path), paths))
            except MaskError:
                continue
            words = ["exreid", "import", "masks", entry.path, "--root", str(photographs)]
            words += ["--table", str(table), "--out", "masked.parquet"]
            notes.append(
                f"{entry.name}/ has masks of {counted(count, 'photograph')}: {shlex.join(words)}"
            )
    return notes


def _table_in(root: Path) -> str | None:
    if not root.is_dir():
        raise MetadataError(f"{root}: is not a folder.")
    known = [name for name in DEFAULT_FILES if (root / name).is_file()]
    if known:
        return known[0]
    tables = sorted(file.name for file in root.iterdir() if file.suffix.lower() in TABLE_ENDINGS)
    if len(tables) > 1:
        raise MetadataError(
            f"{root}: has the tables {', '.join(tables)}. Rename the right one metadata"
            f"{Path(tables[0]).suffix}, or write dataset.metadata_file into a config by hand."
        )
    return tables[0] if tables else None


def _folder_of_paths(root: Path, paths: pd.Series) -> Path:
    """The folder that the paths of a table begin in: this one, or one in it."""
    given = [str(path).replace("\\", "/") for path in paths.dropna().head(LOOKED_AT)]
    inside = sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir())
    for folder in (root, *inside):
        if given and all((folder / path).is_file() for path in given):
            return folder
    return root


def _guess_rest(
    guess: Guess, cells: pd.DataFrame, roles: dict[str, str], names: Sequence[str]
) -> None:
    """Encounters, sides, dates, and how the images are split."""
    if "encounter" in roles:
        both = ["source"] * ("source" in names) + [roles["encounter"]]
        guess.add("encounter_cols", both, "its photographs are not independent evidence")
    if "viewpoint" in roles:
        guess.add("viewpoint_col", roles["viewpoint"], "the side of the animal")
    if roles.get("date", "date") != "date":
        guess.add("date_col", roles["date"], "when the photograph was taken")
    if roles.get("mask", "mask") != "mask":
        guess.add("mask_col", roles["mask"], "the animal's mask")
    split = roles.get(SPLIT)
    values = set() if split is None else {str(value) for value in cells[split].dropna()}
    sides = next((pair for pair in SIDES if values >= set(pair)), None)
    if split is not None and sides is not None:
        if split != SPLIT:
            guess.add("split_col", split, "the column with the split")
        guess.add("database_split_value", sides[0], "the known animals")
        guess.add("query_split_value", sides[1], "the photographs that are asked about")
        return
    why = "the table has no split: one is made, each encounter on one side"
    guess.add("make_split", "time_aware" if "date" in roles else "closed_set", why)
