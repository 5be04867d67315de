"""The cells of a paper's table: which probes it is of, and each of them run once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exreid.config.io import fingerprint, load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.pipeline.inputs import settled
from exreid.progress import tell
from exreid.runs.probe import run_probe
from exreid.storage.run_record import record_of

METHODS = ("cosine", "classifier", "local_index", "local_lightglue", "wildfusion")
"""In the order of the table: all others are compared with the first."""
BUDGETS = (5, 10, 25, 50, 100, 250, None)
"""Candidates of each query that are matched; None: the whole gallery."""
ADAPTED = "local_lightglue adapted"


@dataclass(frozen=True)
class Cell:
    """A row of the table."""

    name: str
    config: ProbeConfig


def cells_of(
    file: str | None,
    words: Sequence[str],
    *,
    methods: Sequence[str] = METHODS,
    budgets: Sequence[int | None] = BUDGETS,
    checkpoint: str | None = None,
) -> list[Cell]:
    """A cell for each method, and for each budget of those that match pairs; ``checkpoint``: of a
    matcher that was adapted. ConfigError for keys that do not go together."""
    kinds = [(method, [f"benchmark.method={method}"]) for method in methods]
    if checkpoint is not None:
        keys = ["benchmark.method=local_lightglue", f"benchmark.matcher_checkpoint={checkpoint}"]
        kinds.append((ADAPTED, keys))
    cells = []
    for kind, keys in kinds:
        plain = load_config(ProbeConfig, file, [*words, *keys])
        for budget in budgets if plain.benchmark.matches_pairs else (None,):
            asked = "all" if budget is None else str(budget)
            name = f"{kind}, {asked}" if plain.benchmark.matches_pairs else kind
            own = [
                f"benchmark.candidate_k={'null' if budget is None else budget}",
                f"output.run_id={name.replace(', ', '-').replace(' ', '-')}",
            ]
            cells.append(Cell(name, load_config(ProbeConfig, file, [*words, *keys, *own])))
    return cells


def run_cells(cells: Sequence[Cell]) -> list[Path]:
    """The folder of each cell's run; one that is finished is only read.

    The budgets of a method come in the order given: pairs that one of them has matched are in the
    cache for the others. ConfigError for a finished cell of another config.
    """
    folders = []
    for number, cell in enumerate(cells, start=1):
        config = settled(cell.config)
        run_id = str(config.output.run_id)
        folder = Path(config.output.root).expanduser() / "benchmark_runs" / run_id
        written = record_of(folder)
        if written is None or written.status != "completed":
            tell(f"Cell {number} of {len(cells)}: {cell.name}.")
            run_probe(config)
        elif written.config_fingerprint != fingerprint(config):
            raise ConfigError(
                f"{folder} is a finished run of another config; see its config.snapshot.yaml. "
                "Name another --out, or remove the folder."
            )
        folders.append(folder)
    return folders
