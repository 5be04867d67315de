"""``result.json``: how far a run came, and what it found. Every run writes it from a `RunRecord`,
and the published schema (docs/result.schema.json) is made from the same class.

A key that is added keeps `SCHEMA_VERSION`; one that goes, or means something else, raises it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from exreid.errors import RunError
from exreid.records import Counts, GalleryQuality
from exreid.storage.run_files import AGAIN, read_run_json

RESULT_FILE = "result.json"
SCHEMA_VERSION: Final = 1

Status = Literal["running", "completed", "stopped", "failed", "interrupted"]


class RunRecord(BaseModel):
    """What a run of exreid says of itself; one that has not come to its end has no numbers."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, title=RESULT_FILE)

    schema_version: Literal[1] = SCHEMA_VERSION
    """Of this file's keys; earlier folders have none, which is 1."""
    run_id: str
    """The name of the run's folder."""
    kind: Literal["identify", "discover"] | None = None
    """``identify``: a run that knows no truth, so that it has no metrics. ``discover``: photographs
    grouped into animals; metrics where their names are known."""
    status: Status
    """``stopped``: a trial that its sweep ended early."""
    method: str
    """``benchmark.method``, a training's ``loss.type``, or ``tune-finetune`` and ``tune-probe``."""
    error: str | None = None
    """What ended a failed or interrupted run."""
    error_type: str | None = None
    metrics: dict[str, float] = {}
    """Fractions, never percent."""
    intervals: dict[str, tuple[float, float]] = {}
    """The low and high end of each metric's 95% confidence interval."""
    counts: Counts = {}
    """How many of what: images, identities, pairs, and by which rule they were chosen."""
    timings_s: dict[str, float] = {}
    """Seconds of wall time, by step."""
    leaks: dict[str, int | str] = {}
    """``safety`` as it was set, and what the leak checks counted."""
    warnings: tuple[str, ...] = ()
    """What the run warned of, each once, in order."""
    quality: GalleryQuality | None = None
    """How well the gallery tells its own animals apart, where it decides between known and new."""
    config_fingerprint: str
    """Of the config in ``config.snapshot.yaml``: equal where the same numbers were asked for."""
    versions: dict[str, str]
    """Of exreid, Python, and the libraries that the numbers depend on."""
    written: str
    """When, by ISO 8601 in UTC."""

    def to_json(self) -> str:
        """The file's text: what was set, in the order above."""
        return json.dumps(self.model_dump(exclude_unset=True), indent=2) + "\n"


def read_record(folder: Path) -> RunRecord:
    """What ``result.json`` of a run says; RunError for one that is missing, damaged, or newer."""
    file = folder / RESULT_FILE
    if not file.is_file():
        raise RunError(
            f"{folder}: no {RESULT_FILE} to read. Give the folder of a completed run, such as "
            "benchmark_runs/RUN_ID."
        )
    content = read_run_json(file)
    try:
        return RunRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(name) for name in first["loc"])
        raise RunError(f"{file}: {place}: {first['msg'].lower()}. {AGAIN}") from error


def record_of(folder: Path) -> RunRecord | None:
    """What ``result.json`` of a run says; None where there is none, or it cannot be read."""
    try:
        return read_record(folder)
    except RunError:
        return None


def published_schema() -> str:
    """The JSON schema of ``result.json``, as docs/result.schema.json has it."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**draft, **RunRecord.model_json_schema()}, indent=2) + "\n"
