"""Training from Python."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from exreid.api.photographs import PathLike
from exreid.api.settings import Keys, overrides_of, run_folders, table_overrides
from exreid.api.watching import progress_here, result_html, result_text
from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.records import Result


@dataclass(frozen=True, repr=False)
class Finetuned:
    """The result of a training."""

    result: Result
    """Validation metrics (fractions) of the best epoch, those before the first epoch as
    ``..._before``, and counts."""
    history: pd.DataFrame
    """A row for each epoch, from 0, the state before the first: the columns of ``history.csv``."""
    checkpoint: Path
    """The weights of the best epoch: ``model.checkpoint``, or ``benchmark.matcher_checkpoint``."""
    folder: Path
    """The run's folder."""

    def __repr__(self) -> str:
        return result_text("Finetuned", self.result)

    def _repr_html_(self) -> str:
        return result_html(self.result)


def finetune(
    config: PathLike | None = None,
    keys: Keys | None = None,
    *,
    output_dir: PathLike,
    table: pd.DataFrame | None = None,
) -> Finetuned:
    """Train a backbone on a data set, as ``exreid finetune`` does, and keep it in ``output_dir``.

    The other arguments are those of `exreid.probe`. Without a cluster and with at most one GPU it
    runs in this process, unless ``ray.num_workers`` is given. An interrupted training continues
    when it is called again with the same ``output.run_id``. To use the trained weights::

        tuned = exreid.finetune(keys={"dataset.root": "lynx"}, output_dir="runs")
        exreid.embed(photographs, {"model.checkpoint": tuned.checkpoint})
    """
    from exreid.runs.finetune import run_finetune
    from exreid.training.checkpoint import BEST
    from exreid.training.history import read_history

    with run_folders(output_dir, None) as where:
        given = table_overrides(table, FinetuneConfig, config, keys, where)
        output = where.overrides[:1]  # decoded images are kept beside the run
        overrides = [*overrides_of(keys), *given, *output]
        settings = load_config(FinetuneConfig, config, overrides)
        if settings.ray.num_workers is None and _is_alone(settings):
            ray = settings.ray.model_copy(update={"num_workers": 0})
            settings = settings.model_copy(update={"ray": ray})
        folder, result = run_finetune(settings, progress=progress_here())
    history = pd.DataFrame([row.cells() for row in read_history(folder)])
    return Finetuned(result, history, folder / BEST, folder)


def _is_alone(config: FinetuneConfig) -> bool:
    """Whether one worker on this machine is all that Ray would start."""
    import torch

    cluster = config.ray.address or os.environ.get("RAY_ADDRESS")
    return cluster in (None, "", "local") and torch.cuda.device_count() <= 1
