"""`exreid discover`: how many animals are on these photographs, and which are one?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exreid.commands.common import (
    Command,
    answer_arguments,
    config_arguments,
    data_overrides,
    path,
    show_result,
)
from exreid.commands.identify_answers import PIPED_WIDTH
from exreid.commands.terminal import OUT, progress_shown
from exreid.config.io import load_config, with_overrides
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.records import Result
from exreid.storage import mirror

FIRST_CHOICE = (
    *("benchmark.method=local_index", "benchmark.local_top_k=256", "dataset.on_error=skip"),
)
"""Where neither a config nor a preset says otherwise: what `SHIPPED` was measured with, and no
weights have to be downloaded."""
OF_THE_SET = (
    *("dataset.on_error=skip", "dataset.metadata_file=null", "dataset.encounter_cols=[]"),
    *("dataset.viewpoint_col=null", "benchmark.exclude=image"),
)
"""What a gallery's config says of its own table."""
SHOWN_ANIMALS = 30


def _discover_arguments(parser: argparse.ArgumentParser) -> None:
    config_arguments(parser)
    parser.set_defaults(load=_loaded)
    add = parser.add_argument
    add("--gallery", type=path, help="known animals of this species: the method, the probabilities "
        "and the cut come from them")  # fmt: skip
    add("--calibration", type=path, help="probabilities: discovery.json of a run on named animals, "
        "or fusion.json of a probe with benchmark.method=wildfusion")  # fmt: skip
    add("--visits", choices=("auto", "time", "folder", "none"), default="auto",
        help="what is one encounter, where no column says it, as for exreid identify")  # fmt: skip
    add("--encounter-minutes", type=float, default=10.0,
        help="longest gap between two photographs of one encounter (default 10)")  # fmt: skip
    add("--masks", type=path, help="folder of mask images, NAME.png for NAME.jpg, animal white")
    answer_arguments(parser)


def _loaded(file: Path | None, overrides: Sequence[str], preset: str | None = None) -> ProbeConfig:
    first = [] if file or preset else FIRST_CHOICE
    return load_config(ProbeConfig, file, [*first, *overrides], preset=preset)


def _config(options: argparse.Namespace) -> ProbeConfig:
    from exreid.gallery.opening import open_gallery
    from exreid.runs.discover import DISCOVER_KEYS

    overrides = data_overrides(options.overrides)
    if not any(word.startswith("dataset.root=") for word in overrides) and options.config is None:
        raise ConfigError("exreid discover: name a folder of photographs, or a table of them.")
    if options.gallery is not None:
        if options.calibration is not None or options.config or options.preset:
            raise ConfigError(
                "--gallery brings its own settings and probabilities: leave --calibration, "
                "--config and --preset out."
            )
        gallery = open_gallery(options.gallery)
        return with_overrides(gallery.config, [*OF_THE_SET, *overrides], DISCOVER_KEYS)
    config = _loaded(options.config, overrides, preset=options.preset)
    if options.calibration is None or config.benchmark.method != "wildfusion":
        return config
    load = f"benchmark.calibration.load={options.calibration.absolute()}"
    return with_overrides(config, [load], ("benchmark.",))


def _discover(options: argparse.Namespace) -> int:
    if options.encounter_minutes < 0:
        raise ConfigError("--encounter-minutes: 0 or more.")
    config = _config(options)
    from exreid.gallery.opening import open_gallery
    from exreid.gallery.photo_table import PhotoOptions
    from exreid.runs.discover import Evidence, run_discover

    gallery = None if options.gallery is None else open_gallery(options.gallery)
    with progress_shown() as progress:
        folder, found = run_discover(
            config,
            PhotoOptions(None, options.masks, options.encounter_minutes, options.visits),
            Evidence(gallery, options.calibration),
            download=options.download,
            progress=progress,
            verbose=options.verbose,
        )
    if options.csv is not None:
        text = (folder / "animals.csv").read_text(encoding="utf-8")
        options.csv.write_text(text, encoding="utf-8")
    page = None
    if options.report:
        from exreid.runs.report import write_report

        page = write_report(folder)
    if options.json:
        content = {
            "run": mirror.shown(folder),
            "words": found.words,
            "counts": found.counts,
            "metrics": found.metrics,
            "intervals": found.intervals,
            "animals": json.loads(found.rows.to_json(orient="records")),
        }
        OUT.print(json.dumps(content, indent=1), markup=False, soft_wrap=True)
        return 0
    _show(found.rows)
    for line in found.words:
        OUT.print(line, markup=False, soft_wrap=not OUT.is_terminal)
    if found.metrics:
        OUT.print()
        show_result(Result(config.benchmark.method, found.metrics, found.intervals, {}))
    _last_lines(folder, page)
    return 0


def _last_lines(folder: Path, page: Path | None) -> None:
    if page is not None:
        OUT.print(f"Report: {page}", markup=False, soft_wrap=True)
    OUT.print(f"Written to {mirror.shown(folder)}", markup=False, soft_wrap=True)


def _show(rows: object) -> None:
    """The animals with the most photographs."""
    import pandas as pd

    assert isinstance(rows, pd.DataFrame)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("animal", "photographs", "visits", "surest photographs"):
        table.add_column(name, justify="left" if name.startswith("surest") else "right")
    animals = list(rows.groupby("animal", sort=True))
    for number, of_animal in animals[:SHOWN_ANIMALS]:
        surest = of_animal.sort_values("probability", ascending=False, kind="stable")["photo"]
        cells = (
            str(number),
            f"{len(of_animal):,}",
            f"{of_animal['visits_of_animal'].iloc[0]:,}",
            ", ".join(surest.head(3)),
        )
        table.add_row(*map(Text, cells))
    console = OUT if OUT.is_terminal else Console(highlight=False, width=PIPED_WIDTH)
    console.print(table)
    if len(animals) > SHOWN_ANIMALS:
        OUT.print(f"and {len(animals) - SHOWN_ANIMALS} more; animals.csv lists them all")


DISCOVER = Command(
    "Group photographs of unknown animals into animals.", _discover_arguments, _discover
)
