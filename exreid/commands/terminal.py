"""The output of a running command: bars on a terminal, lines elsewhere, and every warning.

Everything except the bars goes through Python's logging, so that the screen, a log file and a
program that reads JSON get the same lines.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from exreid.distributed.metrics import with_metrics
from exreid.errors import ConfigError
from exreid.progress import STAGES, WATCH, Progress, duration, tell, tell_stage

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

LINE_EVERY_S = 30.0
"""Seconds between two lines about one stage, where there is no bar."""


@dataclass
class Screen:
    """How this process shows a command's progress and warnings; `reporting` sets it."""

    quiet: bool = False
    as_json: bool = False
    bars: bool = False
    """Whether bars are on the terminal now."""
    warnings: list[str] = field(default_factory=list)
    """The command's warnings so far, each once."""

    def repeat_warnings(self) -> None:
        """Print all warnings again under the result, where they are seen."""
        if not self.warnings or self.as_json:
            return
        ERR.print()
        ERR.print("Warnings:" if len(self.warnings) > 1 else "Warning:")
        for text in self.warnings:
            ERR.print(f"  {text}", markup=False, soft_wrap=True)


SCREEN = Screen()


class _Reporter(logging.Handler):
    """Writes lines and warnings to stderr, above the bars, and to the log file; our warnings
    once, and kept for the end unless they are ``passing``."""

    def __init__(self, file: TextIO | None) -> None:
        super().__init__()
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, unless it is a repeated warning or a bar shows it."""
        ours, warns = record.name.startswith("exreid"), record.levelno >= logging.WARNING
        if ours and warns and not getattr(record, "passing", False):
            text = record.getMessage()
            if text in SCREEN.warnings:
                return
            SCREEN.warnings.append(text)
        if self.file is not None:
            line = _as_json(record) if SCREEN.as_json else f"{_time_of(record)} {_as_line(record)}"
            self.file.write(line + "\n")
            self.file.flush()
        if SCREEN.as_json:
            sys.stderr.write(_as_json(record) + "\n")
            sys.stderr.flush()
        elif not (SCREEN.quiet and (ours or not warns)) and not (
            SCREEN.bars and record.name == STAGES
        ):
            ERR.print(_as_line(record), markup=False, soft_wrap=True)


def _as_line(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    if not record.name.startswith("exreid"):
        return f"{record.levelname.capitalize()} ({record.name}): {text}"
    return f"{record.levelname.capitalize()}: {text}" if record.levelno > logging.INFO else text


def _as_json(record: logging.LogRecord) -> str:
    content = {
        "time": _time_of(record),
        "level": record.levelname.lower(),
        "message": record.getMessage(),
        **getattr(record, "numbers", {}),
    }
    return json.dumps(content, ensure_ascii=False)


def _time_of(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command for its output."""
    parser.add_argument("--quiet", action="store_true", help="show results and warnings alone")
    parser.add_argument("--verbose", action="store_true", help="show every library's own messages")
    parser.add_argument(
        "--log-file", type=Path, metavar="FILE", help="add progress and warnings, with times, to it"
    )
    parser.add_argument(
        "--log-json", action="store_true", help="progress and warnings as a JSON object a line"
    )


@contextmanager
def reporting(*, verbose: bool, quiet: bool, file: Path | None, as_json: bool) -> Iterator[None]:
    """Show the log of the with-block; ConfigError if the log file cannot be opened."""
    root, ours = logging.getLogger(), logging.getLogger(WATCH)
    levels_before = root.level, ours.level
    SCREEN.quiet, SCREEN.as_json, SCREEN.warnings = quiet, as_json, []
    with ExitStack() as stack:
        stream = None
        if file is not None:
            try:
                stream = stack.enter_context(file.open("a", encoding="utf-8"))
            except OSError as error:
                raise ConfigError(f"--log-file {file}: {error.strerror}.") from error
        handler = _Reporter(stream)
        root.addHandler(handler)
        root.setLevel(logging.INFO if verbose else logging.WARNING)
        ours.setLevel(logging.INFO)
        try:
            yield
        except BaseException:
            if quiet:  # they were not shown before
                SCREEN.repeat_warnings()
            raise
        finally:
            root.removeHandler(handler)
            root.setLevel(levels_before[0])
            ours.setLevel(levels_before[1])


@contextmanager
def progress_shown() -> Iterator[Progress]:
    """A function that starts a stage, by name and total, and returns a function that counts.

    On a terminal a bar shows the stage. Elsewhere (job logs, nohup, CI), and in a log file, there
    is a line every 30 s and at its end. Ray's metrics count it too.
    """
    lines = StageLines()
    if not ERR.is_terminal or SCREEN.quiet or SCREEN.as_json:
        with lines.told():
            yield with_metrics(lines.start)
        return
    columns = TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn()
    bars = Bars(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=ERR)

    def start(stage: str, total: int) -> Callable[[int], object]:
        task: TaskID = bars.add_task(stage, total=total)
        count_line = lines.start(stage, total)

        def count(done: int) -> None:
            bars.advance(task, done)
            count_line(done)

        return count

    with bars, lines.told():
        SCREEN.bars = True
        try:
            yield with_metrics(start)
        finally:
            SCREEN.bars = False


class StageLines:
    """Lines on the progress of the current stage."""

    def __init__(self, every_s: float = LINE_EVERY_S) -> None:
        self.every_s = every_s
        self.lock = threading.Lock()
        self.stage, self.total, self.done = "", 0, 0
        self.begun_s = self.start_s = self.told_s = time.monotonic()

    def start(self, stage: str, total: int) -> Callable[[int], object]:
        """As `exreid.progress.Progress`."""
        with self.lock:
            self._end()
            self.stage, self.total, self.done = stage, total, 0
            self.start_s = time.monotonic()

        def count(done: int) -> None:
            with self.lock:
                if self.stage != stage:
                    return
                self.done += done
                if self.done >= self.total:
                    self._end()

        return count

    def _end(self) -> None:
        """Log the end of the current stage, if there is one."""
        if self.stage and self.done:
            self._tell(ended=True)
        self.stage = ""

    def _tell(self, *, ended: bool) -> None:
        self.told_s = time.monotonic()
        tell_stage(
            self.stage, self.done, self.total, seconds=self.told_s - self.start_s, ended=ended
        )

    def look(self) -> None:
        """Log the progress, if nothing was logged for ``every_s`` seconds."""
        with self.lock:
            if time.monotonic() - self.told_s < self.every_s:
                return
            if self.stage:
                self._tell(ended=False)
                return
            self.told_s = time.monotonic()
            tell(f"At work for {duration(self.told_s - self.begun_s)}.")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Call `look` every second during the with-block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(min(1.0, self.every_s)):
                self.look()

        watcher = threading.Thread(target=watch, daemon=True, name="stage-lines")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            with self.lock:
                self._end()


def show_in_parts(columns: Sequence[str], part: Callable[[Sequence[str]], Table]) -> None:
    """Print a table; one that is too wide for the screen as several below each other.

    ``part`` makes the table of some of the columns, with those that each part has before them.
    """
    wide = OUT.options.update_width(10_000)
    rest = list(columns)
    while True:
        count = len(rest)
        while count > 1 and Measurement.get(OUT, wide, part(rest[:count])).maximum > OUT.width:
            count -= 1
        OUT.print(part(rest[:count]))
        rest = rest[count:]
        if not rest:
            return
        OUT.print()
