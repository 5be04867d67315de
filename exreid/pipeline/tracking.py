"""Weights & Biases: one run per probe or training; its errors never end the run."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from exreid.config.base import Tree
from exreid.config.probe import WandbConfig
from exreid.progress import tell
from exreid.records import Result

log = logging.getLogger(__name__)

WAIT_S, SAY_AFTER_S = 90.0, 3.0
"""Seconds that a start waits for the server at most, and those before the first message."""
WAITING = (
    "Weights & Biases: waiting for %s to answer, %.0f s at most; the run goes on without it. "
    "wandb.mode=offline waits for nothing."
)


class Tracker:
    """A run of Weights & Biases; does nothing where it is off, and once it has failed."""

    def __init__(self, config: WandbConfig, *, run_id: str, folder: Path, tree: Tree) -> None:
        self.folder = folder
        self.run: Any = None
        self.rows = 0
        self.on = config.enabled
        self._guarded(lambda: self._start(config, run_id, tree))

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log the rows that are new since the last call, each at its ``epoch``."""
        for row in rows[self.rows :]:
            self._guarded(partial(self._log_row, row))
        self.rows = max(self.rows, len(rows))

    def finish(self, summary: Mapping[str, object]) -> bool:
        """Write the summary; True when everything was logged."""
        self._guarded(lambda: self.run.summary.update(dict(summary)))
        self._guarded(self._finish)
        return self.on

    def _finish(self) -> None:
        offline, folder = self.run.offline, self.run.settings.sync_dir
        self.run.finish()
        if offline:
            tell(f"Weights & Biases: kept offline. To send it: wandb sync {folder}")

    def _log_row(self, row: Mapping[str, float]) -> None:
        self.run.log(dict(row), step=int(row["epoch"]))

    def _start(self, config: WandbConfig, run_id: str, tree: Tree) -> None:
        import wandb

        # Where an argument is None, W&B reads its own WANDB_... variables.
        variable = os.environ.get
        wait_s = float(variable("WANDB_INIT_TIMEOUT") or WAIT_S)
        server = variable("WANDB_BASE_URL") or wandb.Settings().base_url
        slow = threading.Timer(SAY_AFTER_S, log.warning, [WAITING, server, wait_s])
        slow.daemon = True
        if (config.mode or variable("WANDB_MODE")) not in ("offline", "disabled"):
            slow.start()
        try:
            self.run = wandb.init(
                project=config.project or variable("WANDB_PROJECT") or "exreid",
                entity=config.entity,
                group=config.group,
                tags=list(config.tags) or None,
                name=config.name or variable("WANDB_NAME") or run_id,
                mode=config.mode,
                dir=variable("WANDB_DIR") or str(self.folder),
                config=tree,
                settings=wandb.Settings(silent=True, init_timeout=wait_s),
            )
        finally:
            slow.cancel()
        address = getattr(self.run, "url", None)  # offline has none
        if address:
            tell(f"Weights & Biases: {address}", url=address)

    def _guarded(self, call: Callable[[], object]) -> None:
        if not self.on:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, the results are on disk
            self.on = False
            log.warning(
                "Weights & Biases failed (%s); the results in %s are complete without it. "
                "wandb.mode=offline needs no key and no network.",
                (str(error) or type(error).__name__).splitlines()[0],
                self.folder,
            )


def log_result(
    config: WandbConfig, *, run_id: str, folder: Path, tree: Tree, result: Result
) -> bool:
    """A probe's config and metrics; True when logged, False (with a warning) when W&B failed."""
    tracker = Tracker(config, run_id=run_id, folder=folder, tree=tree)
    return tracker.finish({**result.metrics, **result.timings_s})
