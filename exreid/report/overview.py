"""What a report says of the run as a whole: sentences, metrics, plots, trust, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from exreid import __version__
from exreid.config.io import describe_keys
from exreid.config.probe import ProbeConfig
from exreid.config.text import tree_of_yaml
from exreid.errors import ConfigError
from exreid.report.compare import Comparison
from exreid.report.content import Compared, Figure, MetricRow, Overview, Table
from exreid.report.data import RunData
from exreid.report.plots import summary_plots, trust_plots
from exreid.report.words import count_words, method_words, metric_words, percent

SHOWN_ROWS = 200
"""Rows of a table that is shown on a page."""
LEAKS = (
    *("queries_same_file", "queries_same_picture", "queries_of_cut_encounters"),
    *("copies_under_two_animals", "blank_images"),
)
PROBABILITY = {
    "leader": "the probability that the first animal named is the right one",
    "pair": "the share of pairs with such scores that show one and the same animal",
    "": "",
}


def overview(
    data: RunData,
    index: pd.DataFrame,
    comparison: Comparison | None,
    *,
    probability_of: str,
    notes: Sequence[str],
) -> Overview:
    """Everything on the pages but the queries; ``index`` is `QueryPages.index`."""
    result = data.result
    outcomes, decisions = (
        {str(name): int(count) for name, count in index[column].value_counts().items()}
        for column in ("outcome", "decision")
    )
    decided = data.documents.get("open_set") or {}
    bar, reason = decided.get("bar"), str(decided.get("reason") or "")
    counts = [
        Figure(label, f"{value:,}" if isinstance(value, int) else f"{value:.4g}", meaning)
        for name, value in result.get("counts", {}).items()
        if isinstance(value, int | float)
        for label, meaning in [count_words(name)]
    ]
    return Overview(
        run_id=str(result.get("run_id", data.folder.name)),
        kind=str(result.get("kind", "probe")),
        method=str(result.get("method", "")),
        written=str(result.get("written", ""))[:16].replace("T", " "),
        lead=[*_lead(data, outcomes, decisions), *([reason] if reason else [])],
        outcomes=outcomes,
        decisions=decisions,
        metrics=_metrics(data, comparison),
        compared_with=[run.name for run in comparison.runs[1:]] if comparison else [],
        plots=summary_plots(data, index, comparison),
        trust_plots=trust_plots(data, index),
        trust=_trust(data),
        counts=counts,
        tables=_tables(data),
        trust_tables=_trust_tables(data),
        settings=_settings(data),
        versions=[(name, str(value)) for name, value in result.get("versions", {}).items()]
        + [("report", __version__), ("config", str(result.get("config_fingerprint", "")))],
        timings_s=list(result.get("timings_s", {}).items()),
        missing=data.missing,
        notes=notes,
        probability_of=PROBABILITY[probability_of],
        bar=bar if bar is not None and 0 <= bar <= 1 else None,
        no_rate=reason,
    )


def _lead(data: RunData, outcomes: dict[str, int], decisions: dict[str, int]) -> list[str]:
    total = len(data.queries)
    if total == 0:
        return ["This run answered no photograph."]
    photographs = "1 photograph" if total == 1 else f"{total:,} photographs"
    if not data.truth_known:
        found = [f"{photographs} answered."]
        if decisions:
            found.append(
                f"{decisions.get('known', 0):,} show an animal that the gallery knows, by the "
                f"run's decision; {decisions.get('new', 0):,} are probably new."
            )
        return found
    right = outcomes.get("right", 0)
    known = right + outcomes.get("wrong", 0)
    found = []
    if known:
        found.append(
            f"Of {known:,} photographs of animals that the gallery knows, {right:,} "
            f"({percent(right / known)}) were answered with the right animal "
            f"first, by {method_words(str(data.result.get('method')))}."
        )
    new = outcomes.get("new", 0)
    table = data.tables.get("open_set")
    if new and table is not None:
        noticed = int(((table["decision"] == "new") & ~table["is_known"].astype(bool)).sum())
        found.append(f"Of {new:,} photographs of new animals, {noticed:,} were called new.")
    elif new:
        found.append(
            f"{new:,} photographs show animals that the gallery does not have; this run was not "
            "asked to notice that."
        )
    if outcomes.get("open"):
        found.append(f"Of {outcomes['open']:,} photographs the animal is not known.")
    return found


def _metrics(data: RunData, comparison: Comparison | None) -> list[MetricRow]:
    rows = []
    for name, value in data.result.get("metrics", {}).items():
        label, meaning = metric_words(name)
        interval = data.result.get("intervals", {}).get(name)
        others = []
        for number, run in enumerate(comparison.runs[1:] if comparison else ()):
            assert comparison is not None
            change = comparison.differences[number].get(name)
            others.append(
                Compared(
                    run.metrics.get(name),
                    run.intervals.get(name),
                    change.value if change else None,
                    change.interval if change else None,
                    comparison.adjusted[number].get(name),
                )
            )
        pair = (float(interval[0]), float(interval[1])) if interval else None
        rows.append(MetricRow(name, label, meaning, float(value), pair, tuple(others)))
    return rows


def _trust(data: RunData) -> list[Figure]:
    """Numbers that say how far the answers can be believed."""
    found = []
    held = (data.documents.get("fusion") or {}).get("held_out", {}).get("fused")
    if held:
        # Of candidates such as are shown, where the run has figures of those.
        held = held.get("shown", held)
        found.append(
            Figure(
                "Probabilities are off by",
                percent(held["ece"]),
                "On average, on pairs of gallery animals that the probabilities were not fitted "
                f"on (before calibration: {percent(held['ece_before'])}).",
            )
        )
        no_better = held["brier"] >= held["brier_base_rate"]
        found.append(
            Figure(
                "Error of a probability (Brier score)",
                f"{held['brier']:.3f}",
                f"0 is perfect; always stating the average gives {held['brier_base_rate']:.3f}"
                + (", which is no worse: do not go by the probabilities." if no_better else "."),
            )
        )
    decided = data.documents.get("open_set") or {}
    stated = decided.get("stated_false_match_rate")
    metrics, intervals = data.result.get("metrics", {}), data.result.get("intervals", {})
    rate = metrics.get("false_match_rate")
    if stated is not None:
        found.append(
            Figure(
                "New animals that pass for known ones, as promised",
                f"at most {percent(stated)}",
                "The bar was chosen on the gallery so that this rate holds for new animals that "
                "resemble the gallery's own.",
            )
        )
    elif decided.get("reason"):
        found.append(
            Figure("New animals that pass for known ones", "not promised", str(decided["reason"]))
        )
    if rate is not None:
        ends = intervals.get("false_match_rate")
        between = f" (95%: {percent(ends[0])} to {percent(ends[1])})" if ends else ""
        found.append(
            Figure(
                "New animals that passed, as measured here",
                percent(rate),
                f"Share of photographs of new animals that were called known{between}.",
            )
        )
    counts = data.result.get("counts", {})
    for name in LEAKS:
        if isinstance(counts.get(name), int):
            label, meaning = count_words(name)
            found.append(Figure(label, f"{counts[name]:,}", meaning))
    return found


def _tables(data: RunData) -> list[Table]:
    found = []
    visits = data.tables.get("encounters")
    if visits is not None and len(visits):
        several = visits[visits["photos"] > 1]
        if len(several):
            found.append(_visits(several, data.photos.rows))
    groups = data.tables.get("new_animals")
    if groups is not None:
        found.append(
            _table(
                "New animals, grouped",
                "Photographs that were called new, sorted into groups that may show one animal.",
                _with_visits(groups, data.photos.rows),
            )
        )
    return found


def _visits(visits: pd.DataFrame, photos: pd.DataFrame) -> Table:
    shown = _with_visits(visits, photos).rename(
        columns={
            "encounter": "visit",
            "identity": "animal",
            "photos": "photographs",
            "identity_rank": "rank of the right animal",
            "leader": "answer",
            "next": "next animal",
            "known_photos": "called known",
            "known_probability": "probability",
        }
    )
    return _table(
        "Visits with several photographs",
        "All photographs of one visit answered together, which is surer than each alone. "
        "Rank 0: the animal is not in the gallery.",
        shown,
    )


def _with_visits(frame: pd.DataFrame, photos: pd.DataFrame) -> pd.DataFrame:
    """The table with visits as they are shown, without columns that hold nothing."""
    shown_as = dict(zip(photos["encounter"], photos["visit"], strict=True))
    if "encounter" in frame:
        names = [shown_as.get(one) or one for one in frame["encounter"]]
        frame = frame.assign(encounter=names)
    return frame.dropna(axis="columns", how="all")


def _trust_tables(data: RunData) -> list[Table]:
    found = []
    leaks = data.documents.get("leaks")
    if leaks:
        found.append(
            _table(
                "Possible leaks",
                "Queries that resemble a gallery photograph too much to count as evidence, such as "
                "the same picture twice.",
                pd.DataFrame(leaks),
            )
        )
    faithful = data.documents.get("faithfulness")
    if faithful:
        rows = faithful.get("rows", faithful) if isinstance(faithful, dict) else faithful
        if isinstance(rows, dict):
            rows = [{"name": name, "value": value} for name, value in rows.items()]
        found.append(
            _table(
                "Are the explanations true?",
                "What happens to the score when the regions shown as evidence are hidden, compared "
                "with hiding others.",
                pd.DataFrame([row for row in rows if isinstance(row, dict)]),
            )
        )
    rejected = data.documents.get("rejected")
    if rejected:
        found.append(
            _table(
                "Photographs left out",
                "They could not be used; the reason is given.",
                pd.DataFrame(rejected),
            )
        )
    return found


def _table(title: str, caption: str, frame: pd.DataFrame) -> Table:
    rows = [[_cell(cell) for cell in row] for row in frame.head(SHOWN_ROWS).to_numpy(dtype=object)]
    columns = tuple(str(name).replace("_", " ") for name in frame.columns)
    return Table(title, caption, columns, rows, max(0, len(frame) - SHOWN_ROWS))


def _cell(cell: Any) -> str:
    if cell is None or cell != cell:  # noqa: PLR0124 - NaN
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


def _settings(data: RunData) -> list[tuple[str, str, str, str]]:
    """Each key of the run's config: name, value, default, meaning."""
    try:
        tree = tree_of_yaml(data.snapshot, ProbeConfig, source="config.snapshot.yaml")
    except ConfigError:
        return []  # of a run that needs none, see report_data
    meanings = {name: (default, text) for name, _, default, text in describe_keys(ProbeConfig)}
    found = []
    for name, value in _leaves(tree):
        default, text = meanings.get(name, ("null", ""))
        shown, usual = _yaml_word(value), _yaml_word(json.loads(default))
        found.append((name, shown, "" if shown == usual else usual, text))
    return found


def _leaves(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            found.extend(_leaves(value, f"{prefix}{name}."))
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _yaml_word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_word, value))}]"
    return str(value)
