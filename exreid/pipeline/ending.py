"""How a run ends that does not come to its end: its folder says so, and the error what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from exreid.distributed.sentry import noting_death
from exreid.errors import ExreidError, RunInterrupted
from exreid.pipeline.tracking import Tracker
from exreid.storage.disk import places_of, storage_error
from exreid.storage.run_folder import RunFolder


@contextmanager
def noted_in(folder: RunFolder, tracker: Tracker | None = None) -> Iterator[None]:
    """Whatever ends the block stands in the run's ``result.json``, and is raised as an error that
    a user can act on, with the run's id."""
    try:
        with noting_death(folder.path / "result.json"):
            yield
    except BaseException as error:
        told = explained(error, folder)
        folder.fail(told)
        if tracker is not None:
            tracker.finish({"status": "failed"})
        if told is error:
            raise
        raise told from error


def explained(error: BaseException, folder: RunFolder) -> BaseException:
    """The error that says what happened to the run and what to do; often the same one."""
    if isinstance(error, KeyboardInterrupt):
        return RunInterrupted(folder.run_id)
    told = error
    if not isinstance(error, ExreidError):
        told = storage_error(error, places_of(folder.config)) or error
    if isinstance(told, ExreidError) and (not told.by_user or _has_finished(folder)):
        told.run_id = folder.run_id
    return told


def _has_finished(folder: RunFolder) -> bool:
    """Whether there is something that a command run again does not do again."""
    return (folder.path / "checkpoint-latest-full.pth").exists()
