"""`exreid identify`: which animals are on these photographs?"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from exreid.commands.common import (
    Command,
    answer_arguments,
    named_path,
    path,
    plain_arguments,
)
from exreid.commands.identify_answers import show_answers
from exreid.commands.terminal import ERR, OUT, progress_shown
from exreid.config.io import with_overrides
from exreid.errors import ConfigError, ExreidError
from exreid.progress import counted
from exreid.storage import mirror
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from exreid.config.dataset import DatasetConfig
    from exreid.gallery.folder import StoredGallery
    from exreid.gallery.photo_answers import Identification

log = logging.getLogger(__name__)

OVERRIDE = re.compile(r"[a-z_]+(\.[A-Za-z_]+)+=")
REPORT_MATCHES = 3
"""Candidates of each photograph whose matches a report draws."""


def _identify_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    add = parser.add_argument
    add("words", nargs="+", metavar="PHOTO_OR_FOLDER", help="photographs, folders of them, and "
        "key=value of output.*, ray.*, benchmark.cache, benchmark.keep_matches")  # fmt: skip
    add("--gallery", type=path, required=True, help="made by exreid gallery build")
    add("--metadata", type=path, help="table of the photographs, as the gallery's: path, mask, ...")
    add("--detections", type=path, help="MegaDetector's file: only its animals are asked for")
    add("--masks", type=path, help="folder of mask images, NAME.png for NAME.jpg, animal white")
    add("--visits", choices=("auto", "time", "folder", "none"), default="auto",
        help="what is one encounter: photographs of one folder close in EXIF time, or one folder; "
        "auto: by time, else folders named like visit_12 or burst-3")  # fmt: skip
    add("--encounter-minutes", type=float, default=10.0,
        help="longest gap between two photographs of one encounter (default 10)")  # fmt: skip
    add("--on-error", choices=("skip", "raise"), default="skip",
        help="an unreadable photograph: list it and go on (default), or stop")  # fmt: skip
    add("--pictures", type=path, help="folder of the gallery's own photographs, for the report")
    answer_arguments(parser)


def _identify(options: argparse.Namespace) -> int:
    if options.encounter_minutes < 0:
        raise ConfigError("--encounter-minutes: 0 or more.")
    given, overrides = _sorted_out(options.words)
    from exreid.gallery.opening import OPEN_TRIES, open_gallery

    for tries_left in reversed(range(OPEN_TRIES)):
        gallery = open_gallery(options.gallery)
        try:
            folder, identification = _answered(gallery, given, overrides, options)
            break
        except ExreidError:
            if tries_left == 0 or not gallery.is_replaced():
                raise
            line = f"{gallery.folder}: was replaced while it was read. The new one is asked."
            ERR.print(line, markup=False, soft_wrap=True)
    _say(options, gallery, folder, identification)
    return 0 if identification.counts["answered"] + identification.counts["in_gallery"] else 1


def _answered(
    gallery: StoredGallery, given: list[Path], overrides: list[str], options: argparse.Namespace
) -> tuple[Path, Identification]:
    from exreid.gallery.photo_table import PhotoOptions
    from exreid.runs.identify import IDENTIFY_KEYS, run_identify

    matches = (
        REPORT_MATCHES if options.report and gallery.config.benchmark.method != "cosine" else 0
    )
    defaults = ["ray.num_actors=0", f"benchmark.keep_matches={matches}"]
    config = with_overrides(gallery.config, [*defaults, *overrides], IDENTIFY_KEYS)
    dataset = config.dataset.model_copy(update={"on_error": options.on_error})
    with ExitStack() as stack:
        metadata = options.metadata
        if options.detections is not None:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix="exreid-")))
            given, metadata = _detected(given, dataset, options, scratch / "detections.csv")
        progress = stack.enter_context(progress_shown())
        return run_identify(
            given,
            gallery,
            config.model_copy(update={"dataset": dataset}),
            PhotoOptions(metadata, options.masks, options.encounter_minutes, options.visits),
            pictures=options.pictures,
            download=options.download,
            progress=progress,
            verbose=options.verbose,
        )


def _detected(
    given: list[Path], dataset: DatasetConfig, options: argparse.Namespace, out: Path
) -> tuple[list[Path], Path]:
    """The photographs on which a detector found an animal, and a table of its boxes, with the
    columns of the gallery's table; photographs without an animal are passed over with a warning."""
    from exreid.data.imports.read import import_source, write_metadata
    from exreid.data.photos import find_photos

    if options.metadata is not None:
        raise ConfigError("--detections and --metadata: one table of the photographs at a time.")
    if len(dataset.bbox_cols) != 1 or dataset.bbox_format not in (None, "xywh_px"):
        raise ConfigError(
            "--detections: the gallery's tables have boxes in another form (dataset.bbox_cols, "
            "bbox_format). Make such a table, and name it with --metadata."
        )
    photos = find_photos(given)
    imported = import_source(str(options.detections), photos.root, what="megadetector", skip=True)
    boxes = imported.cells[imported.cells["path"].isin(photos.paths)]
    if not len(boxes):
        raise ConfigError(
            f"--detections {options.detections}: has an animal on none of the "
            f"{counted(len(photos.paths), 'photograph')}."
        )
    detected = [Path(photos.root) / name for name in boxes["path"].unique()]
    for line in imported.report():
        log.info("%s: %s", options.detections, line)
    passed_over = len(photos.paths) - len(detected)
    if passed_over:
        have = counted(passed_over, "photograph has", "photographs have")
        log.warning("%s no animal in %s.", have, options.detections)
    # The common folder of these photographs may be a deeper one.
    root = find_photos(detected).root
    paths = [os.path.relpath(Path(photos.root) / name, root) for name in boxes["path"]]
    table = boxes[["bbox"]].set_axis([dataset.bbox_cols[0]], axis=1)
    table.insert(0, dataset.path_col, [name.replace(os.sep, "/") for name in paths])
    wanted = (*dataset.encounter_cols, dataset.viewpoint_col)
    write_metadata(table.assign(**{name: None for name in wanted if name}), out)
    return detected, out


def _say(
    options: argparse.Namespace,
    gallery: StoredGallery,
    folder: Path,
    identification: Identification,
) -> None:
    if options.csv is not None:
        text = (folder / "identifications.csv").read_text(encoding="utf-8")
        options.csv.write_text(text, encoding="utf-8")
    if options.json:
        content = {
            "run": mirror.shown(folder),
            "gallery": str(gallery.folder),
            **identification.as_json(),
        }
        OUT.print(json.dumps(content, indent=1), markup=False, soft_wrap=True)
    else:
        show_answers(gallery, identification)
    if options.report:
        from exreid.runs.report import write_report

        page = write_report(folder)
        if not options.json:
            OUT.print(f"Report: {page}", markup=False, soft_wrap=True)
    if not options.json:
        if identification.counts["answered"] and not is_remote(mirror.shown(folder)):
            command = shlex.join(["exreid", "review", mirror.shown(folder)])
            OUT.print(f"Say which are right: {command}", markup=False, soft_wrap=True)
        OUT.print(f"Written to {mirror.shown(folder)}", markup=False, soft_wrap=True)


def _sorted_out(words: list[str]) -> tuple[list[Path], list[str]]:
    """Paths and overrides; a word that is the path of a file is a path."""
    overrides = [w for w in words if OVERRIDE.match(w) and not Path(w).exists()]
    given = [named_path(word) for word in words if word not in overrides]
    if not given:
        raise ConfigError("exreid identify: name photographs, or a folder of them.")
    return given, overrides


IDENTIFY = Command("Name the animals on new photographs.", _identify_arguments, _identify)
