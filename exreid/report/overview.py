"""What a report says of the run as a whole: its first page, and what all pages show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from exreid import __version__
from exreid.explain.words import count_words, method_words, metric_words, percent
from exreid.report.how_made import missing_parts, settings
from exreid.report.outcomes import probability_of
from exreid.report.pages import (
    Example,
    ExampleRow,
    MetricRow,
    NumberWithMeaning,
    Overview,
    PageTable,
    page_table,
)
from exreid.report.pictures import Picture, picture_file
from exreid.report.read import SNAPSHOT, RunData
from exreid.report.side_by_side import Comparison
from exreid.report.summary_plots import summary_plots
from exreid.report.trust import trust_numbers, trust_plots, trust_tables

EXAMPLES = 6
"""Queries in a row."""
PROBABILITY = {
    "identity": "the probability that the first animal named is the right one",
    "pair": "the share of pairs with such scores that show one and the same animal",
    None: "",
}


def overview(
    data: RunData,
    outcomes: pd.DataFrame,
    comparison: Comparison | None,
    pictures: Mapping[int, Picture],
    *,
    notes: Sequence[str],
) -> Overview:
    """Everything on the pages but the queries; ``outcomes`` is `query_outcomes`."""
    result = data.result
    no_rate = data.rule.no_rate if data.rule else ""
    by_outcome, by_decision = (
        {str(name): int(count) for name, count in outcomes[column].value_counts().items()}
        for column in ("outcome", "decision")
    )
    return Overview(
        run_id=result.run_id,
        kind=result.kind or "probe",
        written=result.written[:16].replace("T", " "),
        lead=[*_lead(data, by_outcome, by_decision), *([no_rate] if no_rate else [])],
        outcomes=by_outcome,
        decisions=by_decision,
        metrics=_metrics(data, comparison),
        compared_with=[run.name for run in comparison.runs[1:]] if comparison else [],
        plots=summary_plots(data, outcomes, comparison),
        trust_plots=trust_plots(data, outcomes),
        trust=trust_numbers(data),
        counts=[
            NumberWithMeaning(label, f"{n:,}" if isinstance(n, int) else f"{n:.4g}", meaning)
            for name, n in result.counts.items()
            if isinstance(n, int | float)
            for label, meaning in [count_words(name)]
        ],
        tables=_tables(data),
        trust_tables=trust_tables(data),
        examples=_example_rows(data, outcomes, pictures),
        settings=settings(data),
        again=f"exreid probe --config {shlex.quote(str(data.folder / SNAPSHOT))} "
        "output.run_id=NEW_NAME",
        versions=[
            *result.versions.items(),
            ("report", __version__),
            ("config", result.config_fingerprint),
        ],
        timings_s=list(result.timings_s.items()),
        missing=missing_parts(data),
        notes=notes,
        probability_of=PROBABILITY[probability_of(data)],
        threshold=data.rule.shown_threshold if data.rule else None,
        no_rate=no_rate,
    )


def _lead(data: RunData, outcomes: dict[str, int], decisions: dict[str, int]) -> list[str]:
    total = len(data.queries)
    if total == 0:
        return ["This run answered no photograph."]
    photographs = "1 photograph" if total == 1 else f"{total:,} photographs"
    if not data.truth_known:
        sentences = [f"{photographs} answered."]
        if decisions:
            sentences.append(
                f"{decisions.get('known', 0):,} show an animal that the gallery knows, by the "
                f"run's decision; {decisions.get('new', 0):,} are probably new."
            )
        return sentences
    right = outcomes.get("right", 0)
    known = right + outcomes.get("wrong", 0)
    sentences = []
    if known:
        sentences.append(
            f"Of {known:,} photographs of animals that the gallery knows, {right:,} "
            f"({percent(right / known)}) were answered with the right animal "
            f"first, by {method_words(data.result.method)}."
        )
    new = outcomes.get("new", 0)
    table = data.open_set
    if new and table is not None:
        noticed = int(((table["decision"] == "new") & ~table["is_known"].astype(bool)).sum())
        sentences.append(f"Of {new:,} photographs of new animals, {noticed:,} were called new.")
    elif new:
        sentences.append(
            f"{new:,} photographs show animals that the gallery does not have; this run was not "
            "asked to notice that."
        )
    if outcomes.get("open"):
        sentences.append(f"Of {outcomes['open']:,} photographs the animal is not known.")
    return sentences


def _metrics(data: RunData, comparison: Comparison | None) -> list[MetricRow]:
    runs = comparison.runs[1:] if comparison else ()
    changes = comparison.changes if comparison else {}
    return [
        MetricRow(
            name,
            *metric_words(name),
            value,
            data.result.intervals.get(name),
            [changes.get((name, run.name)) for run in runs],
        )
        for name, value in data.result.metrics.items()
    ]


def _tables(data: RunData) -> list[PageTable]:
    tables = []
    if data.encounters is not None:
        several = data.encounters[data.encounters["photos"] > 1]
        if len(several):
            tables.append(_encounters(several, data.images.rows))
    if data.new_animals is not None:
        tables.append(
            page_table(
                "New animals, grouped",
                "Photographs that were called new, sorted into groups that may show one animal.",
                _with_visits(data.new_animals, data.images.rows),
            )
        )
    return tables


def _encounters(encounters: pd.DataFrame, images: pd.DataFrame) -> PageTable:
    shown = _with_visits(encounters, images).rename(
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
    return page_table(
        "Visits with several photographs",
        "All photographs of one visit answered together, which is surer than each alone. "
        "Rank 0: the animal is not in the gallery.",
        shown,
    )


def _with_visits(frame: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The table with encounters as they are shown, without columns that hold nothing."""
    shown_as = dict(zip(images["encounter"], images["visit"], strict=True))
    if "encounter" in frame:
        names = [shown_as.get(encounter) or encounter for encounter in frame["encounter"]]
        frame = frame.assign(encounter=names)
    return frame.dropna(axis="columns", how="all")


def _example_rows(
    data: RunData, outcomes: pd.DataFrame, pictures: Mapping[int, Picture]
) -> list[ExampleRow]:
    """What the first page shows of the queries: mistakes first, as they teach most."""
    p = outcomes["probability"].fillna(-np.inf)
    stated = bool(np.isfinite(p).any())
    surest = ", with the highest probabilities." if stated else "."
    sure = outcomes.assign(p=p).sort_values("p", ascending=False, kind="stable")
    outcome = sure["outcome"]
    known, new = sure["decision"] == "known", sure["decision"] == "new"

    def row(title: str, note: str, part: pd.DataFrame, link: str) -> ExampleRow:
        head = part[:EXAMPLES]
        examples = [_example(data, query, pictures[query["image"]]) for _, query in head.iterrows()]
        return ExampleRow(title, note, examples, link)

    rows = [
        row(
            "New animals taken for known ones",
            "The gallery does not have these animals, yet the run called them known.",
            sure[(outcome == "new") & known],
            "outcome=new&decision=known&sort=sure",
        ),
        row(
            "The surest mistakes",
            f"Another animal stood first{surest}",
            sure[outcome == "wrong"],
            "outcome=wrong&sort=sure",
        ),
        row(
            "New animals",
            "The gallery does not have these animals.",
            sure[(outcome == "new") & ~known][::-1],
            "outcome=new",
        ),
        row(
            "The surest right answers",
            f"The right animal stood first{surest}",
            sure[outcome == "right"],
            "outcome=right&sort=sure",
        ),
        row(
            "Probably new animals",
            "No animal of the gallery is near enough.",
            sure[(outcome == "open") & new][::-1],
            "decision=new&sort=unsure",
        ),
        row(
            "Answers",
            "The surest first." if stated else "In the order of the run.",
            sure[(outcome == "open") & ~new],
            "sort=sure",
        ),
    ]
    return [row for row in rows if row.examples]


def _example(data: RunData, query: pd.Series, picture: Picture) -> Example:
    """Of a row of `query_outcomes`."""
    called_new = query["decision"] == "new"
    note = {
        "wrong": f"is {query['truth']}",
        "new": f"new animal: {query['truth']}",
        "right": f"is {query['truth']}, counted as new" if called_new else "",
    }.get(query["outcome"], "")
    return Example(
        str(data.images.rows["image_id"].iat[query["image"]]),
        query["said"],
        note,
        query["verdict"],
        picture_file(picture.key, "t") if picture.key else "",
        *picture.wh_px,
    )
