"""`exreid finetune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from exreid.commands.common import Command, config_arguments, show_result
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.storage import mirror


def _finetune_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser, FinetuneConfig)


def _finetune(options: argparse.Namespace) -> int:
    config = load_config(FinetuneConfig, options.config, options.overrides)
    train_and_show(config, verbose=options.verbose)
    return 0


def train_and_show(config: FinetuneConfig, *, verbose: bool) -> Path:
    """Run a training, print its numbers; its folder."""
    from exreid.runs.finetune import run_finetune

    with progress_shown() as progress:
        folder, result = run_finetune(config, progress=progress, verbose=verbose)
    show_result(result)
    OUT.print(f"Written to {mirror.shown(folder)}", markup=False, soft_wrap=True)
    return folder


FINETUNE = Command("Train a backbone to tell animals apart.", _finetune_arguments, _finetune)
