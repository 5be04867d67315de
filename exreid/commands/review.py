"""`exreid review`: a person says which visits show one animal."""

from __future__ import annotations

import argparse
import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from exreid.commands.common import Command, named_path, path, plain_arguments
from exreid.commands.terminal import OUT, progress_shown
from exreid.errors import ConfigError, ReviewError
from exreid.progress import counted
from exreid.storage.urls import is_remote

if TYPE_CHECKING:
    from exreid.report.review_page import Match
    from exreid.report.reviewed import ReviewedRun
    from exreid.review.state import State


USAGE = """
  exreid review RUN|GALLERY
      opens a page in the browser that asks; of a gallery about its doubtful names
  exreid review RUN|GALLERY --static DIR
      writes pages that ask without a server, for somebody else's machine
  exreid review apply RUN decisions.csv ...
      takes in another person's answers, or those of pages without a server
"""
MATCHED_KEYPOINTS = 256
"""Of each photograph, for the matches that the page shows."""


def _review_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}\n{USAGE}"
    plain_arguments(parser)
    add = parser.add_argument
    add(
        "words",
        nargs="+",
        metavar="RUN",
        help="a finished run of exreid discover or identify, or a gallery",
    )
    add("--wrong", type=float, default=1.0, metavar="N",
        help="done once fewer wrong decisions than this are expected (default 1)")  # fmt: skip
    add("--who", help="your name in decisions.csv; without it, the user's name on this machine")
    add("--port", type=int, default=0, help="of 127.0.0.1; without it, any that is free")
    add("--static", type=path, metavar="DIR", help="write pages that work from disk, without a "
        "server, and give a file to exreid review apply")  # fmt: skip
    add("--questions", type=int, default=200, metavar="N",
        help="of --static: the most that are asked (default 200)")  # fmt: skip
    add("--root", type=os.path.expanduser, help="the photographs' folder, where it has moved")
    add("--gallery", type=os.path.expanduser,
        help="an identification's gallery, where it has moved")  # fmt: skip
    add("--no-browser", action="store_true", help="print the address, and open no browser")


def _review(options: argparse.Namespace) -> int:
    if not options.wrong > 0:
        raise ConfigError("--wrong: a number above 0.")
    if not 0 <= options.port < 65536:
        raise ConfigError("--port: from 0 to 65535.")
    words = list(options.words)
    files = []
    if words[0] == "apply" and len(words) > 1:
        files = [named_path(word) for word in words[2:]]
        words = words[1:2]
        if not files:
            raise ConfigError("exreid review apply RUN decisions.csv ...: name a file of answers.")
    if len(words) > 1:
        raise ConfigError("exreid review RUN: name one run.")
    from exreid.gallery.layout import MANIFEST
    from exreid.report.review_sources import read_review, with_photographs
    from exreid.review.decisions import read_decisions, user_name

    folder = named_path(words[0])
    if (folder / MANIFEST).is_file():
        folder = _scored(folder)
    run = read_review(folder, wrong=options.wrong)
    for file in files:
        _take_in(run, file)
    torn = read_decisions(run.decisions).torn
    if torn:
        _say(
            f"{run.decisions}: its last line was cut off while it was written, and is not used: "
            f"{torn!r}"
        )
    if not files or options.root is not None or options.gallery is not None:
        run = with_photographs(run, options.root, options.gallery)
    if options.static is not None:
        return _written(run, options)
    who = options.who or user_name()
    state = run.state() if files else _asked(run, who, options)
    run.save(state)
    _say_end(run, state, who)
    return 0


def _take_in(run: ReviewedRun, file: Path) -> None:
    """Add the answers of another file, all or none."""
    from exreid.review.decisions import read_decisions

    if not file.is_file():
        raise ConfigError(f"exreid review apply: there is no file {file}.")
    given = read_decisions(file)
    if given.torn:
        raise ReviewError(
            f"{file}: its last line is cut off: {given.torn!r}. Mend it, or take it out."
        )
    try:
        added = run.add(given.decisions)
    except ReviewError as error:
        raise ReviewError(f"{file}: {error}") from error
    _say(f"{file}: {counted(added, 'new answer')}.")


def _scored(gallery: Path) -> Path:
    """The folder of the review of a gallery's own names."""
    from exreid.gallery.opening import open_gallery
    from exreid.runs.gallery_review import score_gallery

    with progress_shown() as progress:
        return score_gallery(open_gallery(gallery), progress=progress)


def _written(run: ReviewedRun, options: argparse.Namespace) -> int:
    """Write the pages without a server."""
    from exreid.report.review_static import write_static_review

    if options.questions < 1:
        raise ConfigError("--questions: 1 at least.")
    with progress_shown() as progress:
        count = write_static_review(
            run,
            options.static,
            who=options.who or "",
            most=options.questions,
            match=_matcher(run),
            progress=progress,
        )
    _say(f"{counted(count, 'question')}: open {options.static / 'index.html'}")
    apply = shlex.join(["exreid", "review", "apply", str(run.folder)])
    _say(f"It gives a file of answers for {apply} decisions.csv")
    return 0


def _asked(run: ReviewedRun, who: str, options: argparse.Namespace) -> State:
    """The state after the page was closed."""
    from exreid.report.review_server import serve

    def opened(address: str) -> None:
        _say(f"Open {address}")
        _say("Each answer is saved at once. Stop with Ctrl-C.")

    return serve(
        run,
        who,
        port=options.port,
        browser=not options.no_browser,
        on_open=opened,
        match=_matcher(run),
    )


def _say_end(run: ReviewedRun, state: State, who: str) -> None:
    from exreid.report.review_page import told
    from exreid.report.reviewed import REVIEWED

    for sentence in told(run, state):
        _say(sentence)
    if run.question(state, who) is not None:
        reviewed = run.gallery if run.kind == "gallery" and run.gallery else str(run.folder)
        again = shlex.join(["exreid", "review", reviewed])
        _say(f"The review is not done. Go on with it: {again}")
    apply = shlex.join(
        ["exreid", "gallery", "apply", run.gallery or "GALLERY", str(run.decisions.absolute())]
    )
    if run.kind == "gallery":
        _say(f"Change the gallery's names accordingly: {apply}")
        return
    if run.kind == "identify":
        _say(f"Put what is confirmed into the gallery: {apply}")
        return
    root = str(run.photos["root"].iloc[0])
    words = [
        *("exreid", "gallery", "build", root, "--out", "NEW.gallery"),
        f"dataset.metadata_file={(run.folder / REVIEWED).absolute()}",
    ]
    _say(f"A gallery of these animals: {shlex.join(words)}")
    _say(f"Or, into a gallery of other animals: {apply}")


def _say(text: str) -> None:
    OUT.print(text, markup=False, soft_wrap=True)


def _matcher(run: ReviewedRun) -> Match | None:
    """How the page's matches are found; None for photographs that are not on this machine."""
    return None if is_remote(str(run.photos["root"].iloc[0])) else partial(_matched, run)


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
