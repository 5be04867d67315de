"""`exreid probe`, and the commands about its data and its numbers."""

from __future__ import annotations

import argparse
import json

from exreid.commands.common import (
    Command,
    config_arguments,
    config_of,
    features_kept,
    path,
    plain_arguments,
    show_result,
)
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.explain.answer_words import quality_words
from exreid.progress import counted
from exreid.storage import mirror


def _config(options: argparse.Namespace) -> ProbeConfig:
    return config_of(options, ProbeConfig)


def _probe_arguments(parser: argparse.ArgumentParser) -> None:
    """The config of a probe."""
    config_arguments(parser)


def _metrics_arguments(parser: argparse.ArgumentParser) -> None:
    plain_arguments(parser)
    parser.add_argument("run_dir", help="a run's folder, or its URL")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="do not decode the images")
    parser.add_argument("--crops", type=path, help="draw ten images as a run takes them (a .png)")


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.add_argument("--out", required=True, help="a .parquet or its URL: image_id, vector")


def _probe(options: argparse.Namespace) -> int:
    config = _config(options)
    return run_and_show(config, verbose=options.verbose)


def run_and_show(config: ProbeConfig, *, verbose: bool) -> int:
    """Run a probe and print its metrics and its folder."""
    from exreid.runs.probe import run_probe

    with progress_shown() as progress:
        folder, result = run_probe(config, progress=progress, verbose=verbose)
    show_result(result)
    if result.quality is not None:
        OUT.print()
        for sentence in quality_words(result.quality, config):
            OUT.print(sentence, markup=False, soft_wrap=not OUT.is_terminal)
    OUT.print(f"Written to {mirror.shown(folder)}", markup=False, soft_wrap=True)
    if config.visualization.enabled:
        pictures = folder.parent.parent / "visualizations" / folder.name
        OUT.print(f"Pictures in {mirror.shown(pictures)}", markup=False, soft_wrap=True)
    return 0


def _metrics(options: argparse.Namespace) -> int:
    from exreid.runs.probe import recompute_metrics

    folder = mirror.local_folder(options.run_dir)
    config = load_config(ProbeConfig, folder / "config.snapshot.yaml")
    result = recompute_metrics(folder, config)
    if options.json:
        content = {"metrics": result.metrics, "intervals": result.intervals}
        OUT.print(json.dumps(content, indent=2), markup=False, soft_wrap=True)
    else:
        show_result(result)
    return 0


def _extract(options: argparse.Namespace) -> int:
    config = _config(options)
    from exreid.runs.extract import run_extract

    out = mirror.local_file(options.out, key="--out")
    with features_kept(config), progress_shown() as progress:
        report = run_extract(config, out, progress=progress, verbose=options.verbose)
    OUT.print(
        f"{options.out}: {counted(report.cached + report.extracted, 'vector')}, "
        f"{report.extracted:,} extracted now, {report.cached:,} from the cache, "
        f"{counted(len(report.rejected), 'image')} left out.",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _validate(options: argparse.Namespace) -> int:
    config = _config(options)
    from exreid.runs.validate import run_validate

    with progress_shown() as progress:
        validation = run_validate(
            config, progress=progress, decode=not options.quick, crops=options.crops
        )
    for line in validation.summary:
        OUT.print(line, markup=False, soft_wrap=True)
    for name, lines in (("Warnings", validation.warnings), ("Problems", validation.problems)):
        if lines:
            OUT.print(f"{name}:")
        for line in lines:
            OUT.print(f"  {line.removesuffix('.')}.", markup=False, soft_wrap=True)
    counts = [
        counted(len(lines), name)
        for name, lines in (("problem", validation.problems), ("warning", validation.warnings))
        if lines
    ]
    OUT.print(f"{' and '.join(counts)}." if counts else "No problems found.")
    return 1 if validation.problems else 0


PROBE = Command("Measure how well a method finds the right animal.", _probe_arguments, _probe)
VALIDATE = Command("Check a data set without running a model.", _validate_arguments, _validate)
EXTRACT = Command("Write the embeddings of every image.", _extract_arguments, _extract)
METRICS = Command("Recompute a run's numbers from its rankings.", _metrics_arguments, _metrics)
