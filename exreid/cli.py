"""The ``exreid`` command; ``jobs/*.py`` call the same functions.

Exit codes: 0 done, 1 failed, 2 wrong usage or config.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from exreid import __version__
from exreid.config import ProbeConfig, StrictModel
from exreid.config_io import describe_keys, load_config, to_yaml
from exreid.config_training import FinetuneConfig
from exreid.errors import ConfigError, ExreidError
from exreid.records import Result

if TYPE_CHECKING:
    from exreid.runs.compare import Comparison

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

DEMO_IDENTITIES = 20
DEMO_IMAGES_PER_IDENTITY = 10
DEMO_EPOCHS = 10
BEFORE = "_before"
"""Ending of the metrics of the features that a training began with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    # Read by OpenMP when torch is loaded, later. Threads that wait for each other by spinning
    # stand still on a machine that others use too: 3 times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    top = argparse.ArgumentParser(
        prog="exreid",
        description="Identify individual wild animals by image retrieval.",
        epilog="\n".join(f"  {name:<10}{text}" for name, (text, _, _) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"exreid {__version__}")
    top.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    name = top.parse_args(words[:1]).command
    text, add_arguments, run = COMMANDS[name]
    # Overrides may stand before, between and after the flags; subparsers cannot do that.
    parser = argparse.ArgumentParser(prog=f"exreid {name}", description=text, add_help=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--verbose", action="store_true", help="show every library's own messages")
    parser.set_defaults(print_config=False)
    add_arguments(parser)
    return _guarded(run, parser.parse_intermixed_args(words[1:]))


def job(command: str, arguments: Sequence[str] | None = None) -> int:
    """What ``jobs/COMMAND.py`` runs: the command's own arguments, without its name."""
    return main([command, *(sys.argv[1:] if arguments is None else arguments)])


def _config(options: argparse.Namespace) -> ProbeConfig:
    return load_config(ProbeConfig, options.config, options.overrides)


def _print_config(options: argparse.Namespace) -> int:
    config = load_config(options.config_model, options.config, options.overrides)
    OUT.print(to_yaml(config), end="", markup=False, soft_wrap=True)
    return 0


def _guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    try:
        return _print_config(options) if options.print_config else run(options)
    except ConfigError as error:
        ERR.print(f"exreid: {error}", markup=False)
        return 2
    except ExreidError as error:
        if options.verbose:
            ERR.print_exception()
        ERR.print(f"exreid: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        ERR.print("exreid: interrupted.")
        return 1


def _plain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="help", help="show this help")


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    _plain_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("exreid_demo"), help="folder to write to")


def _synth_arguments(parser: argparse.ArgumentParser) -> None:
    _plain_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--identities", type=int, required=True)
    parser.add_argument("--images-per-identity", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes")


def _metrics_arguments(parser: argparse.ArgumentParser) -> None:
    _plain_arguments(parser)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _config_arguments(
    parser: argparse.ArgumentParser, model: type[StrictModel] = ProbeConfig
) -> None:
    parser.set_defaults(config_model=model)
    parser.add_argument("-h", "--help", nargs=0, action=_KeysHelp, help="list options and keys")
    parser.add_argument("--config", type=Path, help="YAML file; without it, the defaults")
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="dotted overrides of config keys"
    )


def _finetune_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser, FinetuneConfig)


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="do not decode the images")


def _extract_arguments(parser: argparse.ArgumentParser) -> None:
    _config_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="a .parquet: image_id, vector")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    _plain_arguments(parser)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders of probes")
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder to write to")
    parser.add_argument("--group", action="append", default=[], help="a column of the metadata")
    parser.add_argument("--json", action="store_true", help="print JSON")


class _KeysHelp(argparse.Action):
    """--help with the list of config keys, made only when asked: it needs the backbones."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        model = parser.get_default("config_model")
        parser.epilog = _keys_text(model).replace("%", "%%")
        parser.print_help()
        parser.exit()


def _keys_text(model: type[StrictModel]) -> str:
    from exreid.models.backbones import BACKBONES

    lines = ["config keys (type = default):"]
    for name, kind, default, meaning in describe_keys(model):
        lines.append(f"  {name}  ({kind} = {default})\n      {meaning}")
    lines.append(
        f"\nbackbones for model.type: {', '.join(BACKBONES)}, timm:NAME, hf-hub:OWNER/NAME"
    )
    return "\n".join(lines)


def _probe(options: argparse.Namespace) -> int:
    config = _config(options)
    return _run_and_show(config, verbose=options.verbose)


def _run_and_show(config: ProbeConfig, *, verbose: bool) -> int:
    from exreid.runs.probe import run_probe

    with _bars() as bars:
        folder, result = run_probe(config, progress=_progress(bars), verbose=verbose)
    show_result(result)
    OUT.print(f"Written to {folder}", markup=False, soft_wrap=True)
    return 0


def _finetune(options: argparse.Namespace) -> int:
    config = load_config(FinetuneConfig, options.config, options.overrides)
    _train_and_show(config, verbose=options.verbose)
    return 0


def _train_and_show(config: FinetuneConfig, *, verbose: bool) -> Path:
    from exreid.runs.finetune import run_finetune

    with _bars() as bars:
        folder, result = run_finetune(config, progress=_progress(bars), verbose=verbose)
    show_result(result)
    OUT.print(f"Written to {folder}", markup=False, soft_wrap=True)
    return folder


def _metrics(options: argparse.Namespace) -> int:
    from exreid.runs.probe import recompute_metrics

    snapshot = options.run_dir / "config.snapshot.yaml"
    result = recompute_metrics(options.run_dir, load_config(ProbeConfig, snapshot))
    if options.json:
        content = {"metrics": result.metrics, "intervals": result.intervals}
        OUT.print(json.dumps(content, indent=2), markup=False, soft_wrap=True)
    else:
        show_result(result)
    return 0


def _show_comparison(found: Comparison) -> None:
    """A line per metric and run; runs are letters, so that the table fits a terminal."""
    letters = [chr(ord("A") + i) if i < 26 else str(i) for i in range(len(found.runs))]
    for letter, run in zip(letters, found.runs, strict=True):
        OUT.print(f"{letter}  {run.name}", markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("metric", "", "value", "95%", "change", "95%", "p"):
        left = heading in ("metric", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for name in found.runs[0].values:
        for number, run in enumerate(found.runs):
            value = f"{100 * run.metrics[name]:.2f}" if name in run.metrics else ""
            ends = " ".join(f"{100 * end:.1f}" for end in run.intervals.get(name, ()))
            change = found.differences[number - 1].get(name) if number else None
            cells = ["", "", ""]
            if change is not None:
                cells = [
                    f"{100 * change.value:+.2f}",
                    " ".join(f"{100 * end:+.1f}" for end in change.interval or ()),
                    f"{found.adjusted[number - 1][name]:.2g}",
                ]
            table.add_row("" if number else name, letters[number], value, ends, *cells)
    OUT.print(table)
    OUT.print(
        "In percent, with 95% intervals; changes against A. p: sign-flip test over animals, "
        f"adjusted (Holm) for {len(found.runs) - 1} comparisons.",
        markup=False,
        soft_wrap=True,
    )


def _compare(options: argparse.Namespace) -> int:
    from exreid.runs.compare import compare, write_comparison

    if len(options.runs) < 2:
        raise ConfigError("a comparison needs two runs at least: exreid compare RUN RUN ...")
    found = compare(options.runs)
    write_comparison(found, options.out, groups=options.group)
    if options.json:
        text = (options.out / "comparison.json").read_text(encoding="utf-8")
        OUT.print(text, end="", markup=False, soft_wrap=True)
        return 0
    _show_comparison(found)
    OUT.print(f"Written to {options.out}", markup=False, soft_wrap=True)
    return 0


def _extract(options: argparse.Namespace) -> int:
    config = _config(options)
    from exreid.runs.extract import run_extract

    with _bars() as bars:
        report = run_extract(config, options.out, progress=_progress(bars), verbose=options.verbose)
    OUT.print(
        f"{options.out}: {report.cached + report.extracted} vectors, {report.extracted} extracted "
        f"now, {report.cached} from the cache, {len(report.rejected)} images left out.",
        markup=False,
        soft_wrap=True,
    )
    return 0


def _validate(options: argparse.Namespace) -> int:
    config = _config(options)
    from exreid.runs.validate import run_validate

    with _bars() as bars:
        summary, problems = run_validate(config, progress=_progress(bars), decode=not options.quick)
    for line in summary:
        OUT.print(line, markup=False, soft_wrap=True)
    for problem in problems:
        OUT.print(f"  {problem}", markup=False, soft_wrap=True)
    OUT.print(f"{len(problems)} problems." if problems else "No problems found.")
    return 1 if problems else 0


def _synth(options: argparse.Namespace) -> int:
    from exreid.data.synthetic import write_dataset

    total = options.identities * options.images_per_identity
    with _bars() as bars:
        file = write_dataset(
            options.out,
            identities=options.identities,
            images_per_identity=options.images_per_identity,
            seed=options.seed,
            workers=options.workers,
            on_progress=_progress(bars)("Drawing images", total),
        )
    OUT.print(f"{total} images of {options.identities} animals: {file}", markup=False)
    return 0


def _demo(options: argparse.Namespace) -> int:
    data = options.out / "dataset"
    _demo_dataset(data)
    overrides = [
        f"dataset.root={data.absolute()}",
        "dataset.encounter_cols=[source,encounter]",
        f"output.root={options.out.absolute()}",
    ]
    OUT.print("2. A probe: ImageNet features of EfficientNet-Lite0, cosine similarity.")
    _run_and_show(load_config(ProbeConfig, None, overrides), verbose=options.verbose)
    OUT.print(f"3. A short training with ArcFace: {DEMO_EPOCHS} epochs.")
    training = [*overrides, f"train.epochs={DEMO_EPOCHS}", "ray.num_workers=0"]
    folder = _train_and_show(load_config(FinetuneConfig, None, training), verbose=options.verbose)
    OUT.print("4. The same probe with the trained features.")
    overrides.append(f"model.checkpoint={folder / 'checkpoint-final.pth'}")
    return _run_and_show(load_config(ProbeConfig, None, overrides), verbose=options.verbose)


def _demo_dataset(folder: Path) -> None:
    from exreid.data.synthetic import write_dataset

    total = DEMO_IDENTITIES * DEMO_IMAGES_PER_IDENTITY
    OUT.print(f"1. A synthetic data set: {DEMO_IDENTITIES} animals, {total} photographs.")
    with _bars() as bars:
        write_dataset(
            folder,
            identities=DEMO_IDENTITIES,
            images_per_identity=DEMO_IMAGES_PER_IDENTITY,
            seed=0,
            workers=2,
            on_progress=_progress(bars)("Drawing images", total),
        )
    OUT.print(f"   {folder}", markup=False)


def show_result(result: Result) -> None:
    """The table of metrics, with intervals and counts."""
    table = Table(title=f"Method: {result.method}", title_justify="left")
    names = [name for name in result.metrics if not name.endswith(BEFORE)]
    ends = ["", BEFORE] if len(names) < len(result.metrics) else [""]
    table.add_column("metric")
    for end in ends:
        table.add_column("before training" if end else "value", justify="right")
        table.add_column("95% interval", justify="right")
    for name in names:
        table.add_row(name, *(cell for end in ends for cell in _cells(result, name + end)))
    OUT.print(table)
    counts = [f"{name} {value}" for name, value in result.counts.items() if value != {}]
    if counts:
        OUT.print("; ".join(counts), markup=False)


def _cells(result: Result, name: str) -> tuple[str, str]:
    """A metric's value and interval, in percent."""
    value, low_high = result.metrics.get(name), result.intervals.get(name)
    return (
        "" if value is None else f"{100 * value:.2f} %",
        "" if low_high is None else f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f} %",
    )


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=ERR,
        disable=not ERR.is_terminal,
    )


def _progress(bars: Progress) -> Callable[[str, int], Callable[[int], Any]]:
    def start(stage: str, total: int) -> Callable[[int], Any]:
        task = bars.add_task(stage, total=total)
        return lambda count: bars.advance(task, count)

    return start


Command = tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]

COMMANDS: dict[str, Command] = {
    "demo": (
        "Generate a small data set, probe it, train on it, probe again.",
        _demo_arguments,
        _demo,
    ),
    "synth": ("Generate a synthetic data set.", _synth_arguments, _synth),
    "validate": ("Check a data set without running a model.", _validate_arguments, _validate),
    "extract": ("Write the embeddings of every image.", _extract_arguments, _extract),
    "probe": ("Measure how well a method finds the right animal.", _config_arguments, _probe),
    "finetune": ("Train a backbone to tell animals apart.", _finetune_arguments, _finetune),
    "compare": ("Lay finished probes side by side.", _compare_arguments, _compare),
    "metrics": ("Recompute a run's numbers from its rankings.", _metrics_arguments, _metrics),
}

if __name__ == "__main__":
    sys.exit(main())
