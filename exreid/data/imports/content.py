"""Files and folders of other programs, recognised by what is in them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exreid.data.imports.annotation_tools import is_sam
from exreid.data.imports.camtrap import is_camtrap
from exreid.data.imports.coco import is_coco
from exreid.data.imports.columns import forms_of
from exreid.data.imports.folders import has_animal_folders
from exreid.data.imports.label_studio import is_label_studio, is_label_studio_min
from exreid.data.imports.megadetector import form_of
from exreid.data.imports.wildbook import is_wildbook
from exreid.data.mask_images import MASK_ENDINGS
from exreid.data.metadata_table import MetadataFile, metadata_bytes, parse_metadata
from exreid.errors import MetadataError

WHAT = {
    "folders": "photographs in a folder for each animal",
    "megadetector": "MegaDetector's JSON: boxes, no names",
    "coco": "COCO's JSON with identities",
    "camtrap-dp": "a Camtrap DP: its folder or datapackage.json",
    "wildlife-datasets": "a table of wildlife-datasets",
    "miewid": "a table of MiewID",
    "wildbook": "a spreadsheet of Wildbook",
    "table": "any table: CSV, Parquet or XLSX",
    "masks": "masks and boxes: PNGs, CVAT, Label Studio, SAM",
}
"""The kinds of sources that can be read, by their names on the command line."""
DATA_PACKAGE, CVAT_FILE = "datapackage.json", "annotations.xml"
TEXT_TABLE_ENDINGS = frozenset((".csv", ".tsv", ".txt"))
"""Endings of text tables, whose header may begin like JSON."""

LIST_REMEDY = (
    " A list of records becomes a table by pandas.read_json(FILE).to_csv('t.csv', index=False)."
)


@dataclass(frozen=True)
class Content:
    """The parsed content of a path, and the kinds of source that it can be (the names of
    `WHAT`)."""

    source: str
    fits: list[str]
    json: object = None
    xml: str | None = None
    table: MetadataFile | None = None


def read_content(source: str, sheet: str | None = None) -> Content:
    """A file or a folder, recognised by its content; MetadataError if it cannot be parsed."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _folder(source, folder)
    data = metadata_bytes(source)
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start in (b"{", b"[") and PurePosixPath(source).suffix.lower() not in TEXT_TABLE_ENDINGS:
        content = parse_json(data, source)
        return Content(source, _fits_of_json(content), json=content)
    if start == b"<":
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MetadataError(f"{source}: is not XML in UTF-8 (byte {error.start}).") from error
        return Content(source, ["masks"] if "<annotations" in text else [], xml=text)
    table = parse_metadata(data, source, sheet)
    names = [str(name) for name in table.cells.columns]
    fits = (["wildbook"] if is_wildbook(names) else []) + forms_of(names)
    return Content(source, fits or ["table"], table=table)


def parse_json(data: bytes, source: str) -> object:
    """A file's JSON; MetadataError if it is damaged or cut off."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MetadataError(f"{source}: is not JSON in UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise MetadataError(f"{source}: its JSON is nested too deeply.") from error
    except json.JSONDecodeError as error:
        if error.msg.startswith("Extra data"):
            raise MetadataError(
                f"{source}: is JSON lines, or no JSON. Of lines, pandas.read_json(FILE, lines=True)"
                ".to_csv('metadata.csv', index=False) makes a table."
            ) from error
        cut = error.pos >= len(error.doc.rstrip()) - 1 or "Unterminated" in error.msg
        kind = "is cut off" if cut else "is damaged"
        raise MetadataError(
            f"{source}: its JSON {kind}: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Copy or write the file again."
        ) from error
    except ValueError as error:  # a number of too many digits
        raise MetadataError(f"{source}: its JSON is damaged: {error}.") from error


def choose(content: Content, what: str | None) -> str:
    """The kind of a source: the requested one if it fits, or the only one that fits."""
    if what is not None:
        if what in content.fits or (what == "table" and content.table is not None):
            return what
        if what == "folders" and has_animal_folders(content.source):
            return what
        looks = f"looks like {' or '.join(content.fits)}" if content.fits else "is of no known form"
        raise MetadataError(f"{content.source}: is not {WHAT[what]}; it {looks}.")
    if len(content.fits) != 1:
        fits = " and ".join(content.fits)
        unknown = f"is {'' if content.table else 'JSON, XML or a folder '}of no form that is known"
        problem = f"could be {fits}. Say which" if fits else f"{unknown}. They are"
        raise MetadataError(
            f"{content.source}: {problem}: exreid import {'|'.join(content.fits or WHAT)} FILE."
            + (LIST_REMEDY if isinstance(content.json, list) else "")
        )
    return content.fits[0]


def _fits_of_json(content: object) -> list[str]:
    fits = {
        "megadetector": form_of(content) is not None,
        "coco": is_coco(content),
        "camtrap-dp": is_camtrap(content),
        "masks": is_label_studio(content) or is_label_studio_min(content) or is_sam(content),
    }
    return [name for name, fit in fits.items() if fit]


def _folder(source: str, folder: Path) -> Content:
    package = folder / DATA_PACKAGE
    if package.is_file():
        file = str(package)
        return Content(file, ["camtrap-dp"], json=parse_json(metadata_bytes(file), file))
    if (folder / CVAT_FILE).is_file():
        return read_content(str(folder / CVAT_FILE))
    endings, files = _endings(folder)
    if endings == {".json"}:
        parts = {
            file.relative_to(folder).as_posix(): parse_json(metadata_bytes(str(file)), str(file))
            for file in sorted(files)
        }
        if all(is_sam(part) for part in parts.values()):
            return Content(source, ["masks"], json=parts)
    if annotated := _annotation_file(folder, source):
        return read_content(annotated)
    if endings == {".json"}:
        raise MetadataError(f"{source}: is a folder of JSON files that are not SAM's masks.")
    if endings and endings <= MASK_ENDINGS:  # photographs are seldom PNGs
        return Content(source, ["masks"])
    return Content(source, ["folders"] if has_animal_folders(source) else [])


def _annotation_file(folder: Path, source: str) -> str | None:
    """The JSON of an annotation tool's export: alone, or beside ``images``, at the top or in
    ``annotations``; None if folders may name animals. MetadataError if there are several."""
    names = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."}
    files = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    if names - {"annotations", "images"} or not files:
        return None
    if len(files) > 1 and "annotations" in names:
        shown = ", ".join(file.relative_to(folder).as_posix() for file in files[:5])
        raise MetadataError(
            f"{source}: has {len(files)} JSON files, such as {shown}. Import one of them, with "
            f"--root {source}."
        )
    return str(files[0]) if len(files) == 1 else None


def _endings(folder: Path) -> tuple[set[str], list[Path]]:
    """The endings of a folder's files, and the files; it stops where they are neither all JSON nor
    all mask images."""
    endings: set[str] = set()
    files: list[Path] = []
    for parent, _, names in os.walk(folder):
        files += [Path(parent) / name for name in names if not name.startswith(".")]
        endings.update(PurePosixPath(name).suffix.lower() for name in names if name[0] != ".")
        if endings - {".json"} and endings - MASK_ENDINGS:
            break
    return endings, files
