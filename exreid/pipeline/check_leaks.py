"""Leak checks before anything is measured, and their warnings and errors."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from exreid.config.base import SafetyLevel
from exreid.config.probe import ProbeConfig, RayConfig
from exreid.data.copies import find_copies, is_blank
from exreid.data.leaks import (
    CUT_ENCOUNTER,
    NO_PARTNER,
    SAME_FILE,
    SAME_PICTURE,
    Leaks,
    copy_leaks,
    encounter_leaks,
    partner_leaks,
)
from exreid.data.metadata import retrieval_sides, select_split
from exreid.errors import LeakError
from exreid.features.fill_cache import FillSource, fill_in_process
from exreid.features.prints import MakePrints, Prints, print_table
from exreid.metrics.ranking import Exclude
from exreid.progress import Progress, counted
from exreid.records import ImageTable, RetrievalSide
from exreid.storage.run_folder import write_text
from exreid.storage.spreadsheets import csv_text
from exreid.storage.urls import is_remote

log = logging.getLogger(__name__)

LEAKS_FILE = "leaks.csv"
SHOWN_LEAKS = 3
FEW_PRINTS = 2000
"""Up to this many prints are made in this process: Ray takes longer to start."""
LEAK_COLUMNS = ["kind", "query_id", "gallery_id", "detail"]
SPLIT_REMEDY = "use a split that does not (dataset.make_split makes one)"


@dataclass(frozen=True)
class LeakCheck:
    """The images of queries and gallery, and which findings are intended."""

    table: ImageTable
    query: np.ndarray
    """Positions in ``table``."""
    gallery: np.ndarray
    exclude: Exclude = "image"
    partners: bool = True
    """Whether to look for queries without a gallery image of their animal."""
    open_set: bool = False
    """New animals among the queries are intended."""
    asked: str = "queries"
    """What messages call the queries, and the gallery."""
    answering: str = "gallery"
    cut_remedy: str = "benchmark.exclude=encounter"


@dataclass(frozen=True)
class Inspected:
    """The leaks: ``result.json``'s counts, the file's lines, and the warnings."""

    leaks: Leaks
    warnings: dict[str, str]
    """By the kind of leak; ``safety: strict`` stops at any of them."""
    notes: list[str]
    """Worth a warning, and no reason to stop."""


def leak_check(table: ImageTable, config: ProbeConfig) -> LeakCheck:
    """The check of a probe's split."""
    dataset = config.dataset
    return LeakCheck(
        table,
        select_split(table, dataset.query_split_value),
        select_split(table, dataset.database_split_value),
        exclude=config.benchmark.exclude,
        open_set=config.benchmark.open_set.enabled,
    )


def inspect_split(check: LeakCheck, prints: Prints | None) -> Inspected:
    """All leaks; without ``prints`` those that the table alone shows."""
    queries, gallery = retrieval_sides(check.table, check.query, check.gallery)
    names = check.table.rows["encounter"].tolist()
    leaks = Leaks()
    answers_own_visit = check.exclude != "encounter"
    leaks.add(encounter_leaks(queries, gallery, names))
    if not answers_own_visit:
        leaks.found.clear()
    if check.partners:
        animals = check.table.rows["identity"].tolist()
        lonely = partner_leaks(queries, gallery, animals, same_encounter=answers_own_visit)
        leaks.add(Leaks([] if check.open_set else lonely.found, lonely.counts))
    if prints is not None:
        paths = check.table.rows["path"].tolist()
        leaks.add(_copies(queries, gallery, prints, paths, same_encounter=answers_own_visit))
    return Inspected(leaks, _warnings(check, leaks), _notes(check, leaks))


def _copies(
    queries: RetrievalSide,
    gallery: RetrievalSide,
    prints: Prints,
    paths: list[str],
    *,
    same_encounter: bool,
) -> Leaks:
    """Copies among the images that could be read."""
    queries, gallery = (
        side.take(np.flatnonzero(np.isin(side.position_N, prints.positions)))
        for side in (queries, gallery)
    )
    row_Q, row_G = (
        np.searchsorted(prints.positions, side.position_N) for side in (queries, gallery)
    )
    leaks = copy_leaks(
        queries,
        gallery,
        [prints.keys[i] for i in row_Q],
        [prints.keys[i] for i in row_G],
        find_copies(prints.print_NSS[row_Q], prints.print_NSS[row_G]),
        same_encounter=same_encounter,
        path_N=paths,
    )
    leaks.counts["blank_images"] = int(is_blank(prints.print_NSS).sum())
    return leaks


def _warnings(check: LeakCheck, leaks: Leaks) -> dict[str, str]:
    counts, total = leaks.counts, len(check.query)
    asked, answering = check.asked, check.answering
    texts = {}
    if counts.get("queries_same_file"):
        texts[SAME_FILE] = (
            f"{counts['queries_same_file']} of {total} {asked} are in the {answering} as the same "
            "file: their answers are given away. Delete one row of each"
        )
    if counts.get("queries_same_picture"):
        texts[SAME_PICTURE] = (
            f"{counts['queries_same_picture']} of {total} {asked} have a near-identical photograph "
            f"in the {answering}, not known to be of one encounter. Look at them, delete copies, "
            "or name dataset.encounter_cols"
        )
    if leaks.of(CUT_ENCOUNTER):
        texts[CUT_ENCOUNTER] = (
            f"{counts['queries_of_cut_encounters']} of {total} {asked} share an encounter with the "
            f"{answering} (the split cuts {counted(counts['cut_encounters'], 'encounter')}): a hit "
            f"from the same encounter is no evidence. Set {check.cut_remedy}, or {SPLIT_REMEDY}"
        )
    if leaks.of(NO_PARTNER):
        texts[NO_PARTNER] = (
            f"{counts['queries_without_partner']} of {total} {asked} "
            f"({counted(counts['animals_without_partner'], 'animal')}) have no image in the "
            f"{answering} that could be their answer. Set benchmark.open_set.enabled=true if "
            f"they are meant as new animals, or {SPLIT_REMEDY}"
        )
    return texts


def _notes(check: LeakCheck, leaks: Leaks) -> list[str]:
    counts, notes = leaks.counts, []
    if counts.get("copies_under_two_animals"):
        notes.append(
            f"{counted(counts['copies_under_two_animals'], 'photograph')} under two animals: a "
            "label is wrong, or both are in the picture"
        )
    for kind, side in (("query", check.asked), ("gallery", check.answering)):
        count = counts.get(f"duplicate_{kind}_images")
        # Where the queries are the gallery, these were counted above.
        if count and not np.array_equal(check.query, check.gallery):
            told = counted(count, "image repeats", "images repeat")
            notes.append(f"{told} a file of the same side, the {side}")
    return notes


def check_leaks(
    check: LeakCheck,
    level: SafetyLevel,
    *,
    folder: Path,
    cache: Path | None,
    ray: RayConfig,
    on_error: Literal["raise", "skip"],
    progress: Progress,
    verbose: bool,
) -> dict[str, int | str]:
    """Run the checks, write ``leaks.csv``, and warn of leaks; returns the counts for the result.

    LeakError with ``safety: strict`` where there is a leak. Nothing is done with ``off``.
    """
    if level == "off":
        return {"safety": level}
    prints = make_prints(
        check, cache=cache, ray=ray, on_error=on_error, progress=progress, verbose=verbose
    )
    inspected = inspect_split(check, prints)
    frame = pd.DataFrame([asdict(leak) for leak in inspected.leaks.found], columns=LEAK_COLUMNS)
    write_text(folder / LEAKS_FILE, csv_text(frame))
    if level == "strict" and inspected.warnings:
        raise LeakError(strict_message(inspected, folder / LEAKS_FILE))
    for text in (*inspected.warnings.values(), *inspected.notes):
        log.warning("%s. See %s", text, LEAKS_FILE)
    return {"safety": level, **inspected.leaks.counts}


def strict_message(inspected: Inspected, file: Path) -> str:
    """Each kind of leak with its number and remedy, and the first ones by name."""
    lines = ["safety=strict stops here: the split gives answers away."]
    for kind, text in inspected.warnings.items():
        lines.append(f"  {text}:")
        leaks = inspected.leaks.of(kind)
        for leak in leaks[:SHOWN_LEAKS]:
            pair = " - ".join(filter(None, (leak.query_id, leak.gallery_id)))
            lines.append(f"    {pair}" + (f" ({leak.detail})" if leak.detail else ""))
        if len(leaks) > SHOWN_LEAKS:
            lines.append(f"    and {len(leaks) - SHOWN_LEAKS} more")
    lines.append(f"  All are listed in {file}; safety=warn goes on all the same.")
    return "\n".join(lines)


def make_prints(
    check: LeakCheck,
    *,
    cache: Path | None,
    ray: RayConfig,
    on_error: Literal["raise", "skip"],
    progress: Progress,
    verbose: bool,
) -> Prints:
    """The prints of both sides; their positions are the table's."""
    wanted = np.union1d(check.query, check.gallery)
    part = check.table.take(wanted)
    root = part.root if is_remote(part.root) else os.path.abspath(part.root)  # noqa: PTH100
    part = ImageTable(part.rows, part.original, root, part.source)

    def source_for(make: MakePrints) -> FillSource:
        def either(table: ImageTable, positions: np.ndarray) -> Iterable[dict[str, np.ndarray]]:
            alone = cache is None or len(positions) <= FEW_PRINTS
            if alone or getattr(ray, "num_actors", None) == 0 or ray.num_workers == 0:
                return fill_in_process(table, positions, keep=make)
            return _over_ray(table, positions, make, ray, verbose)

        return either

    with ExitStack() as stack:
        kept = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exreid-")))
        prints = print_table(
            part,
            source_for,
            cache=kept,
            on_error=on_error,
            on_progress=progress("Looking for leaks", len(part)),
        )
    return Prints(wanted[prints.positions], prints.keys, prints.print_NSS, prints.report)


def _over_ray(
    table: ImageTable, positions: np.ndarray, make: MakePrints, ray: RayConfig, verbose: bool
) -> Iterator[dict[str, np.ndarray]]:
    from exreid.distributed.decode import decode_over_tasks
    from exreid.distributed.session import ray_session

    with ray_session(ray, verbose=verbose):
        yield from decode_over_tasks(table, positions, keep=make, cpus=1.0)
