"""From a file or folder of another program to exreid's own table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import pandas as pd

from exreid.data.boxes import BoxFormat
from exreid.data.imports.animals import NAME, Animal, Cells, Reading, is_name
from exreid.data.imports.annotation_tools import is_sam, read_sam
from exreid.data.imports.camtrap import (
    PACKAGE_TABLES,
    Deployment,
    read_camtrap,
    read_deployments,
    table_files,
)
from exreid.data.imports.coco import read_coco
from exreid.data.imports.columns import TABLE_FORMS, read_columns
from exreid.data.imports.content import Content, choose, read_content
from exreid.data.imports.cvat import read_cvat
from exreid.data.imports.finish import Imported, finished
from exreid.data.imports.folders import MINUTES, read_folders
from exreid.data.imports.label_studio import (
    is_label_studio,
    is_label_studio_min,
    read_label_studio,
    whole_tasks,
)
from exreid.data.imports.megadetector import read_megadetector
from exreid.data.imports.named_by_table import with_table
from exreid.data.imports.wildbook import read_wildbook
from exreid.data.imports.zips import unpacked
from exreid.data.mask_images import mask_files, read_masks
from exreid.data.masks import encode_mask
from exreid.data.metadata_table import metadata_bytes, parse_metadata
from exreid.data.photos import find_photos
from exreid.errors import MaskError, MetadataError
from exreid.progress import counted
from exreid.storage.files import written_whole


@dataclass(frozen=True)
class Choices:
    """What a user may decide where a source leaves a choice."""

    min_confidence: float | None = None
    category: str | None = None
    identity: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    box_format: BoxFormat | None = None
    sheet: str | None = None
    template: str | None = None
    encounter_minutes: float = MINUTES


def import_source(
    source: str,
    root: str | None = None,
    *,
    what: str | None = None,
    choices: Choices | None = None,
    table: str | None = None,
    skip: bool = False,
    only_named: bool = False,
) -> Imported:
    """The table of a file or folder, its photographs below ``root`` (if None, the source's folder).

    ``what`` is one of `exreid.data.imports.content.WHAT`; None: recognised by the content.
    ``table`` is a table with the names of the photographs' animals. With ``skip`` entries that
    cannot be used are left out and counted, with ``only_named`` animals without a name.
    MetadataError.
    """
    choices = choices or Choices()
    archive = unpacked(source)
    source, note = archive or (source, "")
    content = read_content(source, choices.sheet)
    what = choose(content, what)
    inside = content.source != source and Path(source).expanduser().is_dir()
    folder = source if what == "folders" or inside else content.source.rpartition("/")[0]
    made = import_content(
        content,
        what,
        root or folder or ".",
        choices,
        table=table,
        skip=skip,
        only_named=only_named,
    )
    return replace(made, notes=[note, *made.notes]) if note else made


def import_content(
    content: Content,
    what: str,
    root: str,
    choices: Choices,
    *,
    table: str | None = None,
    skip: bool = False,
    only_named: bool = False,
) -> Imported:
    """As `import_source`, for a source that is parsed and recognised."""
    reading = read_animals(content, what, choices, root)
    if table is not None:
        cells = import_source(table, root, only_named=True).cells
        reading = with_table(reading, cells, root, content.source)
    if only_named:
        named = [animal for animal in reading.animals if is_name(animal.cells.get(NAME))]
        nameless = len(reading.animals) - len(named)
        if not named and nameless:
            raise MetadataError(
                f"{content.source}: none of its {nameless} animals has a name. A table with the "
                f"columns path and unique_name names them: exreid import {what} FILE --table "
                "NAMES.csv --out metadata.parquet."
            )
        left_out = reading.left_out + Counter({"animals without a name": nameless})
        reading = replace(reading, animals=named, left_out=left_out)
    return finished(reading, root, content.source, skip=skip)


def write_metadata(cells: pd.DataFrame, out: Path) -> None:
    """Write a table as Parquet or CSV, by its ending; under a temporary name until it is
    complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as half:
        if out.suffix == ".parquet":
            cells.to_parquet(half, index=False)
        else:
            cells.to_csv(half, index=False)


def read_animals(content: Content, what: str, choices: Choices, root: str) -> Reading:
    """The animals of a source; MetadataError, with its name, for wrong content."""
    try:
        return _read(content, what, choices, root)
    except (MetadataError, MaskError) as error:
        message = str(error)
        has_source = message.startswith(content.source)
        raise MetadataError(message if has_source else f"{content.source}: {message}") from error


def _read(content: Content, what: str, choices: Choices, root: str) -> Reading:
    if what == "megadetector":
        return read_megadetector(
            content.json,
            min_confidence=choices.min_confidence,
            category=choices.category or "animal",
        )
    if what == "coco":
        return read_coco(content.json, identity=choices.identity, category=choices.category)
    if what == "camtrap-dp":
        return _read_package(content)
    if what == "masks":
        return _read_masks(content, root)
    if what == "folders":
        minutes = choices.encounter_minutes
        return read_folders(content.source, template=choices.template, minutes=minutes)
    table = content.table
    if table is None:
        raise MetadataError("is not a table.")
    lines = table.line_N.tolist()
    if what == "wildbook":
        return read_wildbook(table.cells, lines)
    return read_columns(
        table.cells,
        lines,
        TABLE_FORMS.get(what),
        named=choices.columns,
        box_format=choices.box_format,
    )


def _read_package(content: Content) -> Reading:
    tables = {name: _rows(place) for name, place in _package_files(content).items()}
    return read_camtrap(tables.get("deployments", []), tables["media"], tables["observations"])


def _package_files(content: Content) -> dict[str, str]:
    """Where each table of a Camtrap DP is."""
    if not isinstance(content.json, dict):
        raise MetadataError("is not a datapackage.json.")
    files = table_files(content.json)
    base = content.source.rpartition("/")[0]
    return {
        name: f"{base}/{files[name]}" if base else files[name]
        for name in PACKAGE_TABLES
        if name in files
    }


def _rows(place: str) -> list[Cells]:
    cells = parse_metadata(metadata_bytes(place), place).cells
    return [{str(key): value for key, value in row.items()} for row in cells.to_dict("records")]


def import_deployments(source: str, sites: Collection[str]) -> list[Deployment]:
    """The deployments of a Camtrap DP (its folder or ``datapackage.json``), or of its table alone;
    see `read_deployments`. MetadataError."""
    content = read_content(source)
    try:
        if content.table is None:
            files = _package_files(content)
            if "deployments" not in files:
                raise MetadataError("its datapackage.json names no table deployments.")
            source = files["deployments"]
        return read_deployments(_rows(source), sites)
    except MetadataError as error:
        raise MetadataError(f"{source}: {error}") from error


def _read_masks(content: Content, root: str) -> Reading:
    if content.xml is not None:
        tracks = "<track" in content.xml
        return read_cvat(content.xml, find_photos([Path(root)]).paths if tracks else [])
    if is_label_studio(content.json):
        return read_label_studio(content.json)
    if is_label_studio_min(content.json):
        return read_label_studio(whole_tasks(content.json))
    if content.json is not None:
        single = is_sam(content.json)
        name = PurePosixPath(content.source).name
        parts = {name: content.json} if single else content.json
        return _with_endings(read_sam(parts if isinstance(parts, dict) else {}), root)
    photographs = find_photos([Path(root)]).paths
    masks = Path(content.source).expanduser()
    inside = [path for path in photographs if not (Path(root) / path).is_relative_to(masks)]
    try:
        files_of = mask_files(masks, inside)
    except MaskError as error:
        raise MaskError(str(error).removeprefix("--masks: ")) from error
    animals: list[Animal] = []
    several = 0
    for path, files in files_of.items():
        animal_masks = read_masks(files)
        several += len(animal_masks) > 1
        for number, mask_HW in animal_masks.items():
            cells: Cells = {"image_id": f"{path}#{number}"} if len(animal_masks) > 1 else {}
            place = f"{next(iter(files.values()))}, animal {number}"
            animals.append(Animal(path, place, cells, mask=encode_mask(mask_HW)))
    notes = [
        f"{counted(len(inside) - len(files_of), 'photograph has', 'photographs have')} no mask"
    ]
    if several:
        have = counted(several, "photograph has", "photographs have")
        notes.append(f"{have} several animals by their masks")
    return Reading("folder of masks", animals, notes=notes)


def _with_endings(reading: Reading, root: str) -> Reading:
    """The reading with the endings of the files, for photographs that are named without one."""
    by_stem: dict[str, list[str]] = {}
    for path in find_photos([Path(root)]).paths:
        by_stem.setdefault(PurePosixPath(path).stem, []).append(path)
    animals = []
    for animal in reading.animals:
        same_stem = by_stem.get(PurePosixPath(animal.path).stem, [])
        if not PurePosixPath(animal.path).suffix and len(same_stem) > 1:
            raise MetadataError(f"{animal.place} could be of {same_stem[0]} or {same_stem[1]}.")
        path = same_stem[0] if not PurePosixPath(animal.path).suffix and same_stem else animal.path
        animals.append(Animal(path, animal.place, animal.cells, mask=animal.mask))
    return Reading(reading.form, animals, reading.left_out, reading.notes)
