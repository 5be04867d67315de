"""Exporting what a run answered, or what a gallery knows, told from top to bottom."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Literal

from exreid.data.exports.animals import Export, Place
from exreid.data.exports.camtrap import write_camtrap
from exreid.data.exports.coco import write_coco
from exreid.data.exports.folders import write_folders
from exreid.data.exports.table import people_table, write_people_table
from exreid.data.exports.wildbook import PHOTOGRAPHS, write_wildbook
from exreid.data.imports.folders import is_inner
from exreid.errors import ConfigError
from exreid.progress import Progress, counted, no_progress
from exreid.runs.export_source import find_source, read_export
from exreid.storage.files import clear_leftovers, temporary_beside
from exreid.storage.urls import is_remote, join, read_bytes

To = Literal["camtrap-dp", "wildbook", "folders", "table", "coco"]
TO: dict[To, str] = {
    "camtrap-dp": "a Camtrap DP: datapackage.json and its three tables",
    "wildbook": "spreadsheets of Wildbook's bulk import, and the photographs to upload",
    "folders": "a folder of photographs for each animal",
    "table": "a table for people: --out FILE.csv or FILE.xlsx",
    "coco": "COCO's JSON with identities, boxes and masks: --out FILE.json or a folder",
}
"""What can be written, in the words of the command line."""
FILES = {"table": (".csv", ".xlsx"), "coco": (".json",)}
"""Endings by which ``out`` is a file, and no folder."""
NO_FOLDERS = frozenset(
    (*FILES["table"], *FILES["coco"], ".xls", ".ods", ".parquet", ".tsv", ".zip")
)
"""Endings that nobody gives to a folder."""
TABLE_FILE, COCO_FILE = "animals.csv", "annotations.json"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    export: Export
    out: Path
    notes: list[str]
    """What was changed, or has to be filled in."""

    def told(self) -> list[str]:
        """What was written, in lines."""
        return [_counted(self.export), *(f"{note[:1].upper()}{note[1:]}." for note in self.notes)]


def run_export(
    what: str,
    to: To,
    out: Path,
    *,
    root: str | None = None,
    site: str | None = None,
    zone: tzinfo | None = None,
    links: bool = False,
    progress: Progress = no_progress,
) -> Exported:
    """Write the animals of a run or a gallery for other programs, or for people.

    ``root`` is the folder of the photographs: a gallery's, or where a run's have moved. ``site``
    is the column with the place, ``zone`` that of the cameras' clocks; with ``links``, photographs
    are linked instead of copied. ``out`` is there whole or not at all, and the photographs stay as
    they are. ConfigError where ``out`` holds something; RunError where there is nothing to export.
    """
    single = out.suffix.lower() in FILES.get(to, ())
    _check_out(out, to, single=single)
    export, notes = read_export(find_source(what), root, site)
    if links and is_remote(export.root):
        raise ConfigError(f"--links: the photographs lie at {export.root}, and are copied from it.")
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out.parent)
    half = temporary_beside(out, ending=out.suffix if single else "")
    try:
        if not single:
            half.mkdir()
        folders = {(animal.animal, animal.new_animal, animal.path) for animal in export.animals}
        count = len(export.paths) if to == "wildbook" else len(folders)
        place = _placer(export.root, half, count, links=links, progress=progress)
        match to:
            case "camtrap-dp":
                notes += write_camtrap(export, half, zone)
            case "wildbook":
                notes += write_wildbook(export, half, place)
            case "folders":
                notes += write_folders(export, half, place)
            case "table":
                write_people_table(people_table(export), half if single else half / TABLE_FILE)
            case "coco":
                write_coco(export, half if single else half / COCO_FILE)
        if out.is_dir():
            out.rmdir()
        half.replace(out)
    finally:
        if half.is_dir():
            shutil.rmtree(half)
        half.unlink(missing_ok=True)
    return Exported(export, out, notes + _drawn(export, to))


def _check_out(out: Path, to: To, *, single: bool) -> None:
    if not single and out.suffix.lower() in NO_FOLDERS:
        files = " or ".join(f"a {ending} file" for ending in FILES.get(to, ()))
        raise ConfigError(f"--out {out}: --to {to} writes {files or 'a folder'}. Name one.")
    if single and out.exists():
        raise ConfigError(f"--out {out}: exists already. Name another file, or delete it.")
    if not single and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file. Name a new folder.")
    if not single and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: has other files. Name a new folder, or an empty one.")


def _placer(root: str, out: Path, count: int, *, links: bool, progress: Progress) -> Place:
    """Copies or links ``count`` photographs from below ``root`` to below ``out``."""
    counted: list[Callable[[int], object]] = []

    def place(path: str, target: str) -> None:
        if not counted:
            counted.append(progress("Linking" if links else "Copying", count))
        file = out / target
        file.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(root):
            file.write_bytes(read_bytes(root, path))
        elif links:
            file.symlink_to(Path(join(root, path)).absolute())
        else:
            shutil.copy2(join(root, path), file)
        counted[0](1)

    return place


def _counted(export: Export) -> str:
    animals = export.animals
    head = f"{counted(len(export.paths), 'photograph')}, {counted(len(animals), 'animal')} on them"
    if export.classified_by is None:
        return f"{head}: {len({animal.animal for animal in animals})} by name."
    kinds = Counter(animal.decision for animal in animals)
    new = len({animal.new_animal for animal in animals} - {None})
    parts = [f"{kinds.pop('known', 0)} known"]
    grouped = f" ({counted(new, 'new animal')})" if new else ""
    parts.append(f"{kinds.pop('new', 0)} new{grouped}")
    parts += [f"{count} {kind}" for kind, count in kinds.items()]
    return f"{head}: {', '.join(parts)}."


def _drawn(export: Export, to: To) -> list[str]:
    drawn = sum(animal.drawn for animal in export.animals)
    if not drawn or to == "folders":
        return []
    masks = "the masks are as they came" if to == "coco" else "masks themselves are not exported"
    return [f"{counted(drawn, 'box is', 'boxes are')} drawn around masks; {masks}"]


def read_again_command(made: Exported, to: To) -> list[str]:
    """The words of the command that reads an export again."""
    root, file = made.export.root, made.out
    more: list[str] = []
    match to:
        case "folders":
            root = ""
            # An animal that is called like a day or an encounter is no folder's by itself.
            if any(is_inner(animal.animal or "") for animal in made.export.animals):
                more = ["--template", "{unique_name}/*"]
        case "wildbook":
            root, file = str(file / PHOTOGRAPHS), file / "wildbook-1.xlsx"
        case "table" if file.is_dir():
            file = file / TABLE_FILE
        case "coco" if file.is_dir():
            file = file / COCO_FILE
    words = ["exreid", "import", to, str(file), *(["--root", root] if root else []), *more]
    return [*words, "--out", "metadata.csv"]
