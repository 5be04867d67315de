"""Weights & Biases: one run per probe, and never the reason that a run fails."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from exreid.config import WandbConfig
from exreid.records import Result

log = logging.getLogger(__name__)


def log_result(
    config: WandbConfig, *, run_id: str, folder: Path, tree: dict[str, Any], result: Result
) -> bool:
    """Log config and metrics; True when done, False (with a warning) when W&B failed."""
    if not config.enabled:
        return False
    try:
        import wandb

        run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            tags=list(config.tags),
            name=config.name or run_id,
            mode=config.mode,
            dir=str(folder),
            config=tree,
            settings=wandb.Settings(silent=True),
        )
        run.summary.update({**result.metrics, **result.timings_s})
        run.finish()
    except Exception as error:  # noqa: BLE001 - whatever W&B raises, the results are safe on disk
        log.warning("Weights & Biases failed (%s); the results in %s are complete.", error, folder)
        return False
    return True
