"""Checking a data set: everything that is wrong with it, found without running a model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from exreid.config.probe import ProbeConfig
from exreid.data.images import Preprocessing, prepare_image
from exreid.data.metadata import read_image_table, row_text, select_split
from exreid.errors import ImageError, MaskError, MetadataError
from exreid.explain.canvas import save_png
from exreid.explain.prediction import draw_crops
from exreid.pipeline.check_leaks import inspect_split, leak_check, make_prints
from exreid.pipeline.inputs import cache_folder, settled, table_columns, with_made_split
from exreid.progress import Progress, counted, no_progress
from exreid.records import ImageTable, Rejected, region_parts
from exreid.report.run_images import APART, column_named, site_column
from exreid.storage.urls import READER_THREADS, read_bytes

NEAR = np.timedelta64(1, "h")
SHOWN_PAIRS = 3
CROPS, CROP_PX = 10, 200
CHECK_SIZE_PX = 64


@dataclass(frozen=True)
class Validation:
    """What was found, each a list of lines."""

    summary: list[str]
    """What the data set holds."""
    warnings: list[str]
    """What a run would say as well, and go on."""
    problems: list[str]
    """What stops a run, or leaves images out."""


def run_validate(
    config: ProbeConfig,
    *,
    progress: Progress = no_progress,
    decode: bool = True,
    crops: Path | None = None,
) -> Validation:
    """What the data set holds, and what is wrong with it.

    With ``decode`` every image and every mask is decoded, whatever the config uses of them.
    ``crops`` is a PNG to draw: some images as a run takes them, to be looked at.
    """
    given = config.dataset.model_fields_set
    config = settled(config, skip=True)
    dataset = config.dataset
    warnings: list[str] = []
    stops_strict: list[str] = []
    table, rejected = read_image_table(
        dataset.root,
        metadata_file=dataset.metadata_file,
        columns=table_columns(dataset),
        unknown_identities=dataset.unknown_identities,
        on_error="skip",
        say=warnings.append,
        say_similar=stops_strict.append,
    )
    # Each entry holds every reason of its row, each with its remedy.
    problems = [row_text(item.row, item.path, item.reason) for item in rejected]
    unasked = dataset.make_split is not None and "make_split" not in given
    if dataset.make_split is None:
        split_problems = _split_problems(table, config, rejected)
    else:
        try:
            table, split_problems = with_made_split(table, config), []
        except MetadataError as error:
            split_problems = [str(error)]
    if unasked:  # a gallery needs none
        warnings += [f"exreid probe cannot split it: {problem}" for problem in split_problems]
    else:
        problems += split_problems
    if decode:
        count = progress("Decoding images", len(table))
        found = []
        for problem in _image_problems(table, config):
            count(1)
            found.append(problem)
        problems += [problem for problem in found if problem]
        problems += _unusable_splits(table, found)
    summary = _summary(table, len(rejected))
    if crops is not None:
        summary.append(_draw_crops(table, config, crops))
    warnings += _two_places(table)
    if config.safety != "off" and not split_problems:
        leaks = _leaks(table, config, progress, decode=decode)
        where = "" if decode else " in the table; photographs were not compared"
        summary.append(f"Leaks{where}: {len(leaks) or 'none found'}")
        stops_strict += leaks
    if config.safety == "strict":
        problems += stops_strict
    else:
        warnings += stops_strict
    return Validation(summary, warnings, problems)


def _leaks(
    table: ImageTable, config: ProbeConfig, progress: Progress, *, decode: bool
) -> list[str]:
    check, prints = leak_check(table, config), None
    if decode:
        prints = make_prints(
            check,
            cache=None if config.benchmark.cache == "off" else cache_folder(config),
            ray=config.ray,
            on_error="skip",
            progress=progress,
            verbose=False,
        )
    found = inspect_split(check, prints)
    return [*found.warnings.values(), *found.notes]


def _unusable_splits(table: ImageTable, problem_N: list[str]) -> list[str]:
    """Splits of which no image can be used; the first reason stands for all."""
    splits = table.rows["split"].to_numpy(dtype=object)
    bad_N = np.array([bool(problem) for problem in problem_N], dtype=bool)
    lines = []
    for name in dict.fromkeys(splits.tolist()):
        mine = splits == name
        if bad_N[mine].all():
            lines.append(f"none of the {int(mine.sum())} images of the split {name!r} can be used")
    return lines


def _split_problems(table: ImageTable, config: ProbeConfig, rejected: list[Rejected]) -> list[str]:
    problems = []
    dataset = config.dataset
    for value in dict.fromkeys((dataset.query_split_value, dataset.database_split_value)):
        try:
            select_split(table, value, rejected)
        except MetadataError as error:
            problems.append(str(error))
    return problems


def _image_problems(table: ImageTable, config: ProbeConfig) -> Iterator[str]:
    """One line per image: its problem, or "" where there is none."""
    needs_region = config.dataset.needs_region and config.dataset.no_mask == "raise"
    checks = Preprocessing(
        image_wh_px=(CHECK_SIZE_PX, CHECK_SIZE_PX),
        resize="stretch",
        crop_pct=1.0,
        interpolation="bilinear",
        no_background=True,
        crop="none",
        crop_margin=0.0,
        fill_rgb=(0, 0, 0),
    )

    def check(row: tuple[str, int, str | None]) -> str:
        path, line, region = row
        mask, bbox = region_parts(region)
        wanted = checks
        if bbox:
            wanted = replace(checks, crop="box", no_background=mask is not None)
        elif region is None and not needs_region:
            wanted = replace(checks, no_background=False)
        try:
            prepare_image(read_bytes(table.root, path), region, wanted)
        except (ImageError, MaskError) as error:
            return row_text(line, path, str(error))
        return ""

    rows = zip(table.rows["path"], table.rows["row"], table.regions, strict=True)
    with ThreadPoolExecutor(READER_THREADS) as pool:
        yield from pool.map(check, list(rows))


def _draw_crops(table: ImageTable, config: ProbeConfig, file: Path) -> str:
    """Draw up to `CROPS` images, spread over the animals; returns what to look at."""
    rows, dataset = table.rows, config.dataset
    named = rows.reset_index(drop=True).sort_values(["identity", "image_id"], kind="stable")
    order = named.index.to_numpy()
    wanted = Preprocessing(
        image_wh_px=(CROP_PX, CROP_PX),
        resize="pad",
        crop_pct=1.0,
        interpolation="bicubic",
        no_background=dataset.no_background,
        crop=dataset.cropped,
        crop_margin=dataset.crop_margin,
        fill_rgb=dataset.fill_rgb or (128, 128, 128),
        no_mask="whole",
    )
    shown, regions = [], table.regions
    for place in np.linspace(0, len(order) - 1, min(CROPS, len(order))).round().astype(int):
        position = int(order[place])
        row = rows.iloc[position]
        words = f"{row['identity'] or 'no name'}: {PurePosixPath(row['image_id']).name}"
        try:
            image = prepare_image(read_bytes(table.root, row["path"]), regions[position], wanted)
        except (ImageError, MaskError):  # told among the problems
            words, image = f"unreadable: {row['path']}", np.full((CROP_PX, CROP_PX, 3), 128, "u1")
        shown.append((words, image))
    if not shown:
        return "No image to draw."
    file.parent.mkdir(parents=True, exist_ok=True)
    save_png(file, draw_crops(f"{len(shown)} of {len(rows)} images, as a run takes them", shown))
    return f"{counted(len(shown), 'image')} as a run takes them: {file}"


def _two_places(table: ImageTable) -> list[str]:
    """Animals that are at two sites within an hour, in words."""
    site = column_named(table.original, APART)
    if site is None:
        return []
    rows = table.rows[["identity", "date", "row"]].assign(site=table.original[site].to_numpy())
    # A date without a time is midnight, and says nothing about hours.
    timed = rows[rows["date"].dt.normalize() != rows["date"]].dropna()
    timed = timed.sort_values(["identity", "date", "row"])
    before = timed.groupby("identity")[["date", "site", "row"]].shift()
    near = (timed["date"] - before["date"] <= NEAR) & (timed["site"] != before["site"])
    if not near.any():
        return []
    shown = [
        f"{name} at {was} (line {int(line_before)}) and {now} (line {line})"
        for name, was, line_before, now, line in zip(
            timed["identity"][near],
            before["site"][near],
            before["row"][near],
            timed["site"][near],
            timed["row"][near],
            strict=True,
        )
    ][:SHOWN_PAIRS]
    more = f"; and {int(near.sum()) - SHOWN_PAIRS} more" if near.sum() > SHOWN_PAIRS else ""
    told = f"an animal is at two places within an hour: {'; '.join(shown)}{more}"
    return [f"{table.source}: {told}. Is a name wrong, or a camera's clock?"]


def _summary(table: ImageTable, rejected: int) -> list[str]:
    rows = table.rows
    per_identity = rows["identity"].value_counts().to_numpy()
    splits = rows["split"].value_counts(dropna=False).to_dict() if len(rows) else {}
    lines = [f"{table.source}: {counted(len(rows), 'good row')}, {rejected:,} bad."]
    if len(rows):
        lines.append(
            f"{counted(len(per_identity), 'identity', 'identities')}, {int(per_identity.min())} to "
            f"{counted(int(per_identity.max()), 'image')} each, median {np.median(per_identity):g}."
        )
        count = int(rows["bbox"].notna().sum())
        boxes = f"boxes: {count}; " if count else ""
        lines.append(
            f"Masks: {int(rows['mask'].notna().sum())}; {boxes}dates: "
            f"{int(rows['date'].notna().sum())}; encounters: "
            f"{rows['encounter'].nunique()}."
        )
        site = site_column(table.original, None)
        if site is not None and (places := table.original[site].dropna().value_counts()).size:
            lines.append(
                f"Sites ({site}): {len(places)}, {int(places.min())} to "
                f"{counted(int(places.max()), 'image')} each."
            )
        lines.append("Splits: " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    return lines
