"""`exreid review`: a person says which visits show one animal."""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exreid.commands.common import Command, path, plain_arguments
from exreid.commands.terminal import OUT
from exreid.errors import ConfigError
from exreid.progress import counted
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from exreid.report.reviewed import ReviewedRun


MATCHED_KEYPOINTS = 256
"""Of each photograph, for the matches that the page shows."""


def _review_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    add = parser.add_argument
    add("run_dir", metavar="RUN_DIR", type=path, help="a finished run of exreid discover")
    add("--wrong", type=float, default=1.0, metavar="N",
        help="done once fewer wrong decisions than this are expected (default 1)")  # fmt: skip
    add("--add", nargs="+", type=path, default=[], metavar="FILE",
        help="first take the answers in these decisions.csv of other people")  # fmt: skip
    add("--who", help="your name in decisions.csv; without it, the user's name on this machine")
    add("--port", type=int, default=0, help="of 127.0.0.1; without it, any that is free")
    add("--no-browser", action="store_true", help="print the address, and open no browser")


def _review(options: argparse.Namespace) -> int:
    if not options.wrong > 0:
        raise ConfigError("--wrong: a number above 0.")
    if not 0 <= options.port < 65536:
        raise ConfigError("--port: from 0 to 65535.")
    from exreid.report.review_server import serve
    from exreid.report.reviewed import REVIEWED, read_review, told
    from exreid.review.decisions import read_decisions, user_name

    run = read_review(options.run_dir, wrong=options.wrong)
    for file in options.add:
        if not file.is_file():
            raise ConfigError(f"--add: there is no file {file}.")
        added = run.add(read_decisions(file).decisions)
        OUT.print(f"{file}: {counted(added, 'new answer')}.", markup=False, soft_wrap=True)
    torn = read_decisions(run.decisions).torn
    if torn:
        OUT.print(
            f"{run.decisions}: its last line was cut off while it was written, and is not used: "
            f"{torn!r}",
            markup=False,
            soft_wrap=True,
        )

    def opened(address: str) -> None:
        OUT.print(f"Open {address}", markup=False, soft_wrap=True)
        OUT.print("Each answer is saved at once. Stop with Ctrl-C.", markup=False)

    root = str(run.photos["root"].iloc[0])
    who = options.who or user_name()
    state = serve(
        run,
        who,
        port=options.port,
        browser=not options.no_browser,
        on_open=opened,
        match=None if is_remote(root) else partial(_matched, run),
    )
    for sentence in told(run, state):
        OUT.print(sentence, markup=False, soft_wrap=True)
    if run.question(state, who) is not None:
        OUT.print("The review is not done. The same command goes on.", markup=False)
    words = [
        *("exreid", "gallery", "build", root, "--out", "NEW.gallery"),
        f"dataset.metadata_file={(run.folder / REVIEWED).absolute()}",
    ]
    OUT.print(f"A gallery of these animals: {shlex.join(words)}", markup=False, soft_wrap=True)
    return 0


def _matched(run: ReviewedRun, first: int, second: int) -> list[tuple[float, float, float, float]]:
    """The keypoints that LightGlue matches between two photographs, as shares of their sizes."""
    from exreid.api.features import match
    from exreid.data.image_files import displayed_wh_px

    photos = [run.photos.iloc[row] for row in (first, second)]
    files = [Path(photo["root"]) / photo["path"] for photo in photos]
    masks = [photo.get("mask") if isinstance(photo.get("mask"), str) else None for photo in photos]
    found = match(files[0], files[1], {"benchmark.local_top_k": MATCHED_KEYPOINTS}, masks=masks)
    sizes = [displayed_wh_px(file.read_bytes())[0] for file in files]
    places = found[["first_x", "first_y", "second_x", "second_y"]].to_numpy()
    shares = places / [*sizes[0], *sizes[1]]
    return [(a, b, c, d) for a, b, c, d in shares.tolist()]


REVIEW = Command("Say which visits show one animal: few questions.", _review_arguments, _review)
