"""Recording a run's failure in its folder, with an error that says what to do."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from exreid.distributed.sentry import noting_death
from exreid.errors import ExreidError, LeakError, RunInterrupted
from exreid.pipeline.inputs import AnyConfig, cache_folder
from exreid.pipeline.tracking import Tracker
from exreid.storage.disk import places_of, storage_error
from exreid.storage.run_folder import SWEEP_FILE, RunFolder
from exreid.training.checkpoint import LATEST_FULL


@contextmanager
def recording_failure(folder: RunFolder, tracker: Tracker | None = None) -> Iterator[None]:
    """Write an error of the block, and the warnings until then, into the run's ``result.json``. The
    raised error is one that a user can act on, with the run's id. A wrong command leaves no folder,
    unless the user named it (``output.run_id``)."""
    try:
        with noting_death(folder.path / "result.json"), _warnings_kept(folder.warnings):
            yield
    except BaseException as error:
        shown = explained(error, folder)
        if not (_is_wrong_command(shown, folder) and folder.withdraw()):
            folder.fail(shown)
        if tracker is not None:
            tracker.finish({"status": "failed"})
        if shown is error:
            raise
        raise shown from error


@contextmanager
def _warnings_kept(warnings: list[str]) -> Iterator[None]:
    """Append exreid's warnings during the with-block, each text once."""

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in warnings:
                warnings.append(text)

    ours, handler = logging.getLogger("exreid"), Keep(logging.WARNING)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)


def explained(error: BaseException, folder: RunFolder) -> BaseException:
    """The error to show: what happened to the run and what to do; often ``error`` itself."""
    if isinstance(error, KeyboardInterrupt):
        shown: BaseException = RunInterrupted(folder.run_id)
    elif isinstance(error, ExreidError):
        shown = error
    else:
        shown = storage_error(error, places_of(folder.config)) or error
    if isinstance(shown, (ExreidError, RunInterrupted)):
        checkpoint = next(folder.path.rglob(LATEST_FULL), None)
        finished = checkpoint is not None or (not shown.by_user and _has_finished(folder))
        shown.run_id = folder.run_id if finished else None
    return shown


def _is_wrong_command(error: BaseException, folder: RunFolder) -> bool:
    """Whether the user has to type another command, and needs nothing of the run's folder: neither
    its name nor its list of leaks."""
    if isinstance(error, LeakError) or not isinstance(error, ExreidError) or not error.by_user:
        return False
    return cast(AnyConfig, folder.config).output.run_id is None


def _has_finished(folder: RunFolder) -> bool:
    """Whether this start has finished some work that the same command would not repeat."""
    with suppress(OSError, ValueError, ExreidError):
        sweep = folder.path / SWEEP_FILE
        trials = json.loads(sweep.read_text())["trials"] if sweep.exists() else []
        if any(trial["state"] != "running" for trial in trials):
            return True
        parts = cache_folder(cast(AnyConfig, folder.config)).rglob("part-*")
        return any(file.stat().st_mtime >= folder.started_s for file in parts)
    return False
