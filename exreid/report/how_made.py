"""How a run was made, as a report shows it: its settings, and the files that it lacks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping

from exreid.config.io import describe_keys
from exreid.config.probe import ProbeConfig
from exreid.config.text import tree_of_yaml
from exreid.errors import ConfigError
from exreid.report.pages import MissingPart
from exreid.report.read import SNAPSHOT, RunData


def missing_parts(data: RunData) -> list[MissingPart]:
    """What the run did not write, and the command that would make it."""
    again = f"exreid probe --config {shlex.quote(str(data.folder / SNAPSHOT))} "
    again += "output.run_id=NEW_NAME "
    identify = data.result.kind == "identify"
    config = data.config
    parts = []

    def add(what: str, why: str, command: str) -> None:
        parts.append(MissingPart(what, why, "" if identify else command))

    if data.matches is None:
        more = "benchmark.keep_matches=5"
        if data.result.method in ("cosine", "classifier"):
            more = f"benchmark.method=wildfusion benchmark.candidate_k=50 {more}"
        add(
            "Matched keypoints on the photographs",
            "this run kept no matched keypoints (matches.parquet)",
            again + more,
        )
    if data.fusion is None:
        add(
            "Probabilities, and what each method contributes",
            "this run did not calibrate its scores (fusion.parquet)",
            again + "benchmark.method=wildfusion benchmark.candidate_k=50",
        )
    if data.open_set is None:
        add(
            "Known or new",
            "this run did not decide whether an animal is new (open_set.parquet)",
            again + "benchmark.open_set.enabled=true",
        )
    if data.calibration_pairs is None and data.fusion is not None and not identify:
        add(
            "How far the probabilities can be believed",
            "this run used a calibration fitted elsewhere (calibration_pairs.parquet)",
            again + "benchmark.calibration.load=null",
        )
    if data.encounters is None and not identify:
        columns = bool(config and config.dataset.encounter_cols)
        add(
            "Answers by encounter",
            "no photograph has an encounter"
            if columns
            else "the run was not told which columns name an encounter (encounters.parquet)",
            again + "dataset.encounter_cols=[COLUMN]",
        )
    if data.leaks is None:
        add(
            "Leaks between photographs and gallery",
            "this run was not checked for copies and cut encounters (leaks.csv)",
            f"{again}safety=warn",
        )
    if data.faithfulness is None:
        file = shlex.quote(str(data.folder / "faithfulness.json"))
        root = f" --data {shlex.quote(config.dataset.root)}" if config else ""
        add(
            "Are the explanations true?",
            "faithfulness was not measured for this run (faithfulness.json)",
            f"python benchmarks/faithfulness.py{root} --json {file}",
        )
    return parts


def settings(data: RunData) -> list[tuple[str, str, str, str]]:
    """Each key of the run's config: name, value, default, meaning."""
    try:
        tree = tree_of_yaml(data.snapshot, ProbeConfig, source=SNAPSHOT)
    except ConfigError:
        return []  # of a run that needs none
    meanings = {name: (default, text) for name, _, default, text in describe_keys(ProbeConfig)}
    rows = []
    for name, value in _leaves(tree):
        default, text = meanings.get(name, ("null", ""))
        shown, usual = _yaml_word(value), _yaml_word(json.loads(default))
        rows.append((name, shown, "" if shown == usual else usual, text))
    return rows


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _yaml_word(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_word, value))}]"
    return str(value)
