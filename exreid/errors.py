"""The errors that a user can cause and mend; each message names the place and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ExreidError(Exception):
    """Base of all errors that exreid raises on purpose."""

    run_id: str | None = None
    """Of the run that this ended, where the same command goes on with it."""
    by_user: bool = False
    """Whether the same command can only fail again until the user has changed something."""


class ConfigError(ExreidError):
    """A config file, key or value that cannot be used."""

    by_user = True


class MetadataError(ExreidError):
    """A metadata table that cannot be used: columns, paths, identities or splits."""

    by_user = True


class ImageError(ExreidError):
    """An image file that cannot be read."""

    by_user = True


class MaskError(ExreidError):
    """A mask that cannot be decoded, or that does not fit its image."""

    by_user = True


class CheckpointError(ExreidError):
    """Model weights that cannot be found, read or fitted to the model."""

    by_user = True


class CacheError(ExreidError):
    """A file of the feature cache that cannot be read."""


class StorageError(ExreidError):
    """A disk that is full, or storage or a URL that cannot be reached, read or written."""


class RunError(ExreidError):
    """A run, or a finished run's folder, that cannot go on."""


class NoClusterError(RunError):
    """A Ray that does not start, or a cluster that cannot be attached to."""

    by_user = True


class TrainingError(ExreidError):
    """A training that cannot go on: a loss that is no number, or lost workers."""


class NonFiniteLossError(TrainingError):
    """A loss or a gradient that became infinite or no number."""

    by_user = True


class MatchingError(ExreidError):
    """Pairs of images that could not be matched."""


class CalibrationError(ExreidError):
    """A calibration that cannot be fitted to its pairs, or a saved one that cannot be read."""

    by_user = True


class GalleryError(ExreidError):
    """A gallery that cannot be read, or that does not fit what is asked of it."""

    by_user = True


class ReviewError(ExreidError):
    """Decisions of people that cannot be read or kept, or that do not fit what they are about."""

    by_user = True


class LeakError(ExreidError):
    """A split whose gallery gives answers away, with ``safety: strict``."""

    by_user = True


class ExplanationError(ExreidError):
    """An answer, or a network, that cannot be explained in the way that was asked for."""

    by_user = True


class ClusterLostError(ExreidError):
    """The Ray cluster went away: its head is dead, or cannot be reached any more."""


class RunInterrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM ended a run, whose state is saved."""

    by_user = False

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id} was interrupted")
        self.run_id: str | None = run_id
        """As an error's: None where there is nothing to go on with."""


SPEECHLESS = (
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    ArithmeticError,
    RecursionError,
)
"""What a reader raises that did not expect its bytes: its words say nothing to a user."""


@contextmanager
def reading(file: Path, kind: type[ExreidError], remedy: str) -> Iterator[None]:
    """The guard around whatever reads bytes that others wrote: what libraries raise on damaged or
    hostile ones has no end, and means the same. ``remedy`` is the rest of the message.
    """
    try:
        yield
    except ExreidError:
        raise
    except Exception as error:
        first = [] if isinstance(error, SPEECHLESS) else str(error).strip().splitlines()
        reason = first[0][:300] if first else "it is damaged, or of another kind."
        raise kind(f"{file}: {reason.rstrip('.')}. {remedy}") from error
