"""What a run answered, or what a gallery knows, as it is exported: animals on photographs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from exreid.data.exports.animals import Export, ExportedAnimal
from exreid.data.exports.placed import PhotographRow, moments_of, placed
from exreid.data.imports.photographs import PhotoSize, read_sizes
from exreid.data.metadata_rows import encounter_name
from exreid.errors import ConfigError, RunError
from exreid.explain.answer_words import told_answer
from exreid.gallery.layout import MANIFEST
from exreid.report.read import SNAPSHOT, run_config
from exreid.report.run_images import read_run_images, read_run_metadata, site_column
from exreid.storage import mirror
from exreid.storage.run_files import (
    AGAIN,
    IN_GALLERY,
    NEW_ANIMALS,
    PHOTOS,
    TEXT,
    WHOLE,
    read_run_table,
)
from exreid.storage.run_record import RESULT_FILE, RunRecord, read_record
from exreid.storage.urls import missing_files

ANSWERS, PHOTO_TABLE = "answers.parquet", "photos.parquet"
RUN_FOLDERS = ("identifications", "benchmark_runs", "discoveries")
"""Where a run is looked for whose id alone is given."""
NEW_NAME = re.compile(r"new_(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class TakenAnswer:
    """What a run answered of one image."""

    leader: str | None
    probability: float | None
    decision: str | None
    group: int | None
    """Of those that were called new."""


@dataclass(frozen=True)
class Source:
    """What a run or a gallery says, before its photographs are looked at."""

    root: str
    name: str
    rows: list[PhotographRow]
    named: list[str] | None
    """Of each row the animal that people named; None for a run."""
    answers: dict[str, TakenAnswer]
    candidates: set[str]
    """The known animals among the answers, named or not."""
    record: RunRecord | None


def find_source(what: str) -> Path:
    """The folder of a run or a gallery: the folder itself, a URL, or a run by its id."""
    folder = mirror.local_folder(what)
    by_id = [] if "/" in what else [Path(place) / what for place in RUN_FOLDERS]
    for place in (folder, *by_id):
        if (place / RESULT_FILE).is_file() or (place / MANIFEST).is_file():
            return place
    there = "is neither a run nor a gallery" if folder.is_dir() else "there is no such folder"
    raise ConfigError(
        f"{what}: {there}, and no run of that id in {' or '.join(RUN_FOLDERS)}. Name the folder of "
        "a run, or of a gallery."
    )


def read_export(folder: Path, root: str | None, site: str | None) -> tuple[Export, list[str]]:
    """The animals of a finished identification or probe, or of a gallery; and notes.

    ``root`` is the folder of the photographs, which a gallery does not say; ``site`` the column
    with the place. RunError for what holds no answers, and where photographs are missing.
    """
    if root is None and (folder / MANIFEST).is_file():
        raise ConfigError(
            f"{folder}: a gallery has no photographs, only small pictures of them. Name the folder "
            "of its photographs with --root."
        )
    source = read_source(folder, root, site)
    paths = [str(row["path"]) for row in source.rows]
    sizes = _sizes(source, folder, paths)
    moments = moments_of(source.root, source.rows)
    first_new = new_numbers_from(source)
    notes: list[str] = []
    unread: list[str] = []
    animals = []
    for i, row in enumerate(source.rows):
        told = with_answer(placed(row, sizes[paths[i]], unread), source, i, first_new)
        moment, has_time = moments[i]
        animals.append(replace(told, moment=moment, has_time=has_time))
    if unread:
        notes.append(f"masks or boxes left out ({len(unread):,}): {unread[0]}")
    if first_new > 0 and any(animal.new_animal for animal in animals):
        notes.append(
            f"new animals count from {new_name(first_new + 1)}, since a known one is called "
            f"{new_name(first_new)}"
        )
    record = source.record
    left_out = 0 if record is None else record.counts.get("images_left_out", 0)
    if left_out:
        notes.append(
            f"photographs not exported, as the run left them out (rejected.csv): {left_out}"
        )
    export = Export(source.root, source.name, animals)
    if record is not None:
        by = f"exreid {record.versions.get('exreid', '')}".strip()
        export = replace(export, classified_by=by, classified_at=record.written)
    return export, notes


def read_source(folder: Path, root: str | None, site: str | None) -> Source:
    """What a finished identification or probe, or a gallery, says; the photographs are not looked
    at. ``root`` and ``site`` as for `read_export`; a gallery's root is empty without one."""
    if (folder / MANIFEST).is_file():
        return _of_gallery(folder, root, site)
    return _of_run(folder, root, site)


def _of_gallery(folder: Path, root: str | None, site: str | None) -> Source:
    from exreid.gallery.opening import open_gallery  # loads torch, which runs do without

    gallery = open_gallery(folder)
    whole = gallery.table.original.reset_index(drop=True)
    column = site_column(whole, site)
    known = gallery.table.rows
    rows = whole.astype(object).where(whole.notna(), None)
    for name in ("image_id", "path", "mask", "bbox", "encounter", "viewpoint", "date"):
        rows[name] = known[name]
    rows["visit"] = [encounter_name(encounter) for encounter in known["encounter"]]
    rows["site"] = None if column is None else whole[column]
    name = folder.resolve().name
    return Source(root or "", name, records_of(rows), known["identity"].tolist(), {}, set(), None)


def _of_run(folder: Path, root: str | None, site: str | None) -> Source:
    record = read_record(folder)
    if record.status != "completed":
        raise RunError(
            f"{folder}: this run's status is {record.status!r}, not completed: it has no answers "
            "to export."
        )
    has_answers = (folder / ANSWERS).exists()
    if record.counts.get("answered") and not has_answers:
        raise RunError(f"{folder / ANSWERS}: is missing. {AGAIN}")
    parts = [
        *([_answered(folder, root, site)] if has_answers else []),
        *([_in_gallery(folder, root, site)] if record.kind == "identify" else []),
    ]
    rows = pd.concat([part for part in parts if len(part)] or [pd.DataFrame()])
    if not len(rows):
        what = "answered no photograph" if record.kind == "identify" else "answers no photographs"
        raise RunError(
            f"{folder}: this run {what}, so there is nothing to export. What can be exported are "
            "an identification, a probe, and a gallery."
        )
    roots = set(rows["root"])
    if len(roots) != 1:
        raise RunError(f"{folder}: its photographs lie in {len(roots)} folders. Name one: --root.")
    answers, candidates = _answers(folder, record) if has_answers else ({}, set())
    candidates |= {name for name in rows.get("identity", ()) if isinstance(name, str)}
    where = str(roots.pop())
    return Source(where, record.run_id, records_of(rows), None, answers, candidates, record)


def _answered(folder: Path, root: str | None, site: str | None) -> pd.DataFrame:
    """The run's queries."""
    config = run_config(folder, (folder / SNAPSHOT).read_text(encoding="utf-8"))
    queries = read_run_table(folder / "queries.parquet", {"query_id": TEXT}, key="query_id")
    ids = [str(query_id) for query_id in queries["query_id"].to_pylist()]
    table = None
    if not (folder / PHOTO_TABLE).exists() and config is not None:
        table = read_run_metadata(folder, config.dataset, root)
    images = read_run_images(folder, config, ids, [], root=root, site=site, table=table)
    rows = pd.concat([images.details.astype(object), images.rows.drop(columns="identity")], axis=1)
    if table is not None:  # with the time, which reports do not show
        date_of = dict(zip(table.rows["image_id"], table.rows["date"], strict=True))
        rows["date"] = [date_of[image_id] for image_id in rows["image_id"]]
    return rows


def _in_gallery(folder: Path, root: str | None, site: str | None) -> pd.DataFrame:
    """The photographs that were given and that the gallery has already, with their ``identity``."""
    if not (folder / PHOTO_TABLE).exists():
        return pd.DataFrame()
    rows = read_run_table(folder / PHOTO_TABLE, PHOTOS).to_pandas().astype(object)
    if "side" not in rows or not (rows["side"] == IN_GALLERY).any():
        return pd.DataFrame()
    rows = rows[rows["side"] == IN_GALLERY].reset_index(drop=True)
    column = site_column(rows, site)
    rows["site"] = None if column is None else rows[column]
    rows["bbox"] = rows.get("bbox")
    return rows if root is None else rows.assign(root=root)


def records_of(rows: pd.DataFrame) -> list[PhotographRow]:
    """The rows with the visit as people say it. Animals of one photograph, which an identification
    keeps apart by visits of their own, share theirs again."""
    rows = rows.loc[:, ~rows.columns.duplicated(keep="last")].astype(object)
    records: list[dict[str, Any]] = rows.where(rows.notna(), None).to_dict("records")  # type: ignore[assignment]
    shown: dict[str, str] = {}
    for row in records:
        if row["encounter"] is not None:
            own, name = str(row["encounter"]), str(row["image_id"]).removeprefix("new:")
            row["encounter"] = own.removesuffix(f"|{len(name)}:{name}").removesuffix(f" {name}")
            if row["encounter"] != own:
                row["visit"] = encounter_name(row["encounter"])
            shown[row["encounter"]] = row["visit"]
    if len(set(shown.values())) < len(shown):  # two encounters that people would call the same
        for row in records:
            row["visit"] = row["encounter"]
    return [*records]


def _answers(folder: Path, record: RunRecord) -> tuple[dict[str, TakenAnswer], set[str]]:
    """What was answered of each query, and the animals among its best. Where a gallery cannot tell
    its animals apart, nothing was decided, whatever its threshold says."""
    decided: dict[str, PhotographRow] = {}
    if (folder / "open_set.parquet").exists():
        columns, nothing = {"query_id": TEXT}, {"decision": TEXT}  # of a gallery that decides none
        table = read_run_table(folder / "open_set.parquet", columns, empty=nothing, key="query_id")
        decided = {row["query_id"]: row for row in table.to_pylist()}
    groups: dict[str, int] = {}
    if (folder / "new_animals.parquet").exists():
        table = read_run_table(folder / "new_animals.parquet", NEW_ANIMALS, key="query_id")
        groups = {row["query_id"]: row["group"] for row in table.to_pylist()}
    first: dict[str, str] = {}
    candidates = {row["leader"] for row in decided.values() if row.get("leader")}
    columns = {"query_id": TEXT, "rank": WHOLE, "identity": TEXT}
    for row in read_run_table(folder / ANSWERS, columns).to_pylist():
        first.setdefault(row["query_id"], row["identity"])
        candidates.add(row["identity"])
    poor = record.quality is not None and record.quality.level == "poor"
    answers = {}
    for query_id in {**first, **decided}:
        row = decided.get(query_id, {})
        answers[query_id] = TakenAnswer(
            row.get("leader") or first.get(query_id),
            row.get("known_probability"),
            None if poor else row.get("decision"),
            groups.get(query_id),
        )
    return answers, candidates


def new_name(number: int) -> str:
    """What a new animal is called.

    >>> new_name(3)
    'new_03'
    """
    return f"new_{number:02d}"


def new_numbers_from(source: Source) -> int:
    """After which number new animals count: no known animal is called like a new one."""
    found = (NEW_NAME.fullmatch(name) for name in source.candidates)
    return max((int(number[1]) for number in found if number), default=0)


def with_answer(exported: ExportedAnimal, source: Source, i: int, first_new: int) -> ExportedAnimal:
    """With what is said of it: the animal only where it was decided as a known one."""
    if source.named is not None:
        return replace(exported, animal=source.named[i])
    row = source.rows[i]
    if row.get("side") == IN_GALLERY:
        name = str(row["identity"])
        said = f"The gallery has this photograph: {name}"
        return replace(exported, animal=name, decision=IN_GALLERY, answer=said, nearest=name)
    answer = source.answers.get(exported.image_id, TakenAnswer(None, None, None, None))
    told = told_answer(answer.leader, answer.probability, answer.decision)
    grouped = told.kind == "new" and answer.group is not None
    return replace(
        exported,
        animal=answer.leader if told.kind == "known" else None,
        new_animal=new_name(first_new + (answer.group or 0)) if grouped else None,
        decision=told.kind,
        answer=told.sentence,
        nearest=answer.leader,
        probability=answer.probability,
    )


def _sizes(source: Source, folder: Path, paths: Sequence[str]) -> dict[str, PhotoSize]:
    """The photographs' sizes; RunError where some are missing or cannot be read."""
    unique = list(dict.fromkeys(paths))
    missing = [unique[i] for i in sorted(missing_files(source.root, unique))]
    if missing:
        raise RunError(
            f"{folder}: {len(missing)} of its {len(unique)} photographs, such as {missing[0]!r}, "
            f"are not below {source.root}. If they have moved, name their folder with --root."
        )
    found = read_sizes(source.root, unique)
    bad = [size for size in found.values() if isinstance(size, str)]
    if bad:
        raise RunError(f"{bad[0]} {len(bad)} of {len(unique)} photographs cannot be read.")
    return {path: size for path, size in found.items() if not isinstance(size, str)}
