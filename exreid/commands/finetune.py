"""`exreid finetune`."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from exreid.commands.common import Command, config_arguments, config_of, show_result
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.base import Tree
from exreid.config.io import leaf_keys
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.storage import mirror


def _finetune_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser, FinetuneConfig)


def _finetune(options: argparse.Namespace) -> int:
    config = config_of(options, FinetuneConfig)
    folder = train_and_show(config, verbose=options.verbose)
    probe = shlex.join(["exreid", "probe", *probe_words(config, mirror.shown(folder))])
    OUT.print(f"Measure it on the query split:\n  {probe}", markup=False, soft_wrap=True)
    return 0


def probe_words(config: FinetuneConfig, folder: str) -> list[str]:
    """The overrides of a probe of the best epoch, on the same data set."""
    matcher = config.train.what == "matcher"
    blocks = ("dataset", "model", "benchmark") if matcher else ("dataset", "model")
    best = "benchmark.matcher_checkpoint" if matcher else "model.checkpoint"
    values, defaults = config.model_dump(mode="json"), ProbeConfig().model_dump(mode="json")
    words = []
    for key in leaf_keys(ProbeConfig):
        if key.split(".")[0] not in blocks and key != "output.root":
            continue
        value, default = _at(values, key), _at(defaults, key)
        if value != default and key != best:
            words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    return [*words, f"{best}={folder}/checkpoint-best.pth"]


def _at(tree: Tree, key: str) -> object:
    """The value of a dotted key."""
    for name in key.split("."):
        tree = tree[name]
    return tree


def train_and_show(config: FinetuneConfig, *, verbose: bool) -> Path:
    """Run a training and print its metrics; the run's folder."""
    from exreid.runs.finetune import run_finetune

    with progress_shown() as progress:
        folder, result = run_finetune(config, progress=progress, verbose=verbose)
    show_result(result)
    OUT.print(f"Written to {mirror.shown(folder)}", markup=False, soft_wrap=True)
    return folder


FINETUNE = Command(
    "Train a backbone or a matcher to tell animals apart.", _finetune_arguments, _finetune
)
