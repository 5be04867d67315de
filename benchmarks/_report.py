"""What every benchmark shares: its arguments, its rows, its table and its JSON file."""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table


def arguments(description: str) -> argparse.Namespace:
    """``--quick`` (within two minutes) and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    return parser.parse_args()


def data_parser(description: str | None) -> argparse.ArgumentParser:
    """The same for a benchmark of whole probes, and the data set that is probed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="smaller, within two minutes")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--root", type=Path, help="of a data set; default: generated animals")
    parser.add_argument("--out", type=Path, help="where runs and caches go; default: thrown away")
    parser.add_argument("--keypoints", type=int, default=256, help="of each image")
    parser.add_argument("overrides", nargs="*", help="of the probe: dataset.encounter_cols=[...]")
    return parser


class Report:
    """Rows {name, value, unit, against, ratio}: a table on the screen, and JSON where asked."""

    def __init__(self, title: str, *, as_it_goes: Path | None = None) -> None:
        """``as_it_goes``: also written to this file after each row, for a run that may be cut."""
        self.title, self.as_it_goes = title, as_it_goes
        self.rows: list[dict[str, object]] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        against: str = "",
        ratio: float | None = None,
        *,
        interval: tuple[float, float] | None = None,
        meaning: str = "",
    ) -> None:
        """One figure, and its ratio to the figure that it is measured against; where they are
        known also ``low`` and ``high``, the ends of its 95% interval, and what it means."""
        row = {"name": name, "value": value, "unit": unit, "against": against, "ratio": ratio}
        if interval is not None:
            row |= {"low": interval[0], "high": interval[1]}
        if meaning:
            row["meaning"] = meaning
        self.rows.append(row)
        if self.as_it_goes is not None:
            self.write(self.as_it_goes)

    def show(self, file: Path | None) -> None:
        """Print the table; write the JSON file where one is named."""
        table = Table(title=self.title, title_justify="left")
        columns = ["name", "value", "unit", "against", "ratio"]
        spread = any("low" in row for row in self.rows)
        if spread:
            columns.insert(2, "95% interval")
        for column in columns:
            right = column in ("value", "ratio", "95% interval")
            table.add_column(column, justify="right" if right else "left")
        for row in self.rows:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            cells = [row["name"], f"{row['value']:.4g}", row["unit"], row["against"], ratio]
            if spread:
                ends = f"{row['low']:.3g} to {row['high']:.3g}" if "low" in row else ""
                cells.insert(2, ends)
            table.add_row(*map(str, cells))
        Console().print(table)
        if file is not None:
            self.write(file)

    def write(self, file: Path) -> None:
        """The rows so far, as JSON."""
        file.write_text(json.dumps(self.rows, indent=1) + "\n")


def interleaved_s(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, run in turn, so that a noisy machine hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def peak_mib(way: Callable[[], object]) -> float:
    """The most memory (resident set) that the process held above its start, in MiB. Linux."""
    statm, page_bytes = Path("/proc/self/statm"), resource.getpagesize()

    def resident_pages() -> int:
        return int(statm.read_text().split()[1])

    start = peak = resident_pages()
    finished = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not finished.wait(0.002):
            peak = max(peak, resident_pages())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        way()
    finally:
        peak = max(peak, resident_pages())
        finished.set()
        watcher.join()
    return (peak - start) * page_bytes / 2**20
