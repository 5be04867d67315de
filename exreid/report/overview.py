"""A report's first page, and the values that all pages show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from exreid import __version__
from exreid.explain.answer_words import UNSURE, found_words, quality_words, told_answer
from exreid.explain.words import count_words, method_words, metric_words, percent
from exreid.progress import counted
from exreid.report.animals import animal_sections, asked, run_title
from exreid.report.how_made import missing_parts, settings
from exreid.report.outcomes import probability_of
from exreid.report.pages import (
    Example,
    ExampleRow,
    GalleryVerdict,
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
        for column in ("outcome", "decision" if data.truth_known else "kind")
    )
    verdict = _verdict(data)
    return Overview(
        run_id=result.run_id,
        title=run_title(data),
        kind=result.kind or "probe",
        verdict=verdict,
        written=result.written[:16].replace("T", " "),
        lead=[
            *_lead(data, by_outcome, by_decision),
            *([no_rate] if no_rate and verdict is None else []),
        ],
        outcomes=by_outcome,
        decisions=by_decision,
        metrics=_metrics(data, comparison),
        compared_with=[run.name for run in comparison.runs[1:]] if comparison else [],
        plots=summary_plots(data, outcomes, comparison),
        trust_plots=trust_plots(data, outcomes),
        trust=trust_numbers(data, outcomes),
        counts=[
            NumberWithMeaning(label, f"{n:,}" if isinstance(n, int) else f"{n:.4g}", meaning)
            for name, n in result.counts.items()
            if isinstance(n, int | float)
            for label, meaning in [count_words(name)]
        ],
        tables=_tables(data),
        trust_tables=trust_tables(data),
        animals=animal_sections(data, outcomes, pictures, _example),
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
    photographs = asked(data)
    if not data.truth_known:
        known, new, unsure = (decisions.get(kind, 0) for kind in ("known", "new", "unsure"))
        if not known + new + unsure:
            return [f"{photographs} answered, by the nearest animals alone."]
        if new == total:
            return [f"No photograph matched a known animal; all {total:,} look new."]
        return [f"Of {photographs}, {found_words(known, new, unsure)}."]
    right = outcomes.get("right", 0)
    known = right + outcomes.get("wrong", 0)
    sentences = []
    if known:
        sentences.append(
            f"Of {counted(known, 'photograph')} of animals that the gallery knows, {right:,} "
            f"({percent(right / known)}) {_were(right)} answered with the right animal first, by "
            f"{method_words(data.result.method)}."
        )
    new = outcomes.get("new", 0)
    table = data.open_set
    if new and table is not None:
        noticed = int(((table["decision"] == "new") & ~table["is_known"].astype(bool)).sum())
        sentences.append(
            f"Of {counted(new, 'photograph')} of new animals, {noticed:,} {_were(noticed)} counted "
            "as new."
        )
    elif new:
        sentences.append(
            f"{counted(new, 'photograph shows an animal', 'photographs show animals')} that the "
            "gallery does not have; this run was not asked to notice that."
        )
    if outcomes.get("open"):
        sentences.append(f"Of {counted(outcomes['open'], 'photograph')} the animal is not known.")
    return sentences


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _verdict(data: RunData) -> GalleryVerdict | None:
    quality = data.result.quality
    if quality is None or data.config is None:
        return None
    return GalleryVerdict(quality.level, quality_words(quality, data.config))


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
    if data.new_animals is not None and data.truth_known:
        tables.append(
            page_table(
                "New animals, grouped",
                "Photographs that were counted as new, in groups that may show the same animal.",
                _with_visits(data.new_animals.drop(columns="known_probability"), data.images.rows),
            )
        )
    return tables


def _encounters(encounters: pd.DataFrame, images: pd.DataFrame) -> PageTable:
    caption = "All photographs of one encounter answered together, which is surer than each alone."
    if "known_probability" in encounters:
        columns = encounters[["leader", "known_probability", "decision"]].astype(object)
        cells = columns.where(columns.notna(), None).to_numpy()
        sentences = [told_answer(*row).sentence for row in cells]
        encounters = encounters.assign(leader=sentences).drop(
            columns=["known_probability", "decision", "known_photos", "score"], errors="ignore"
        )
    else:
        caption += " Rank 0: the animal is not in the gallery."
    shown = _with_visits(encounters, images).rename(
        columns={
            "identity": "animal",
            "photos": "photographs",
            "identity_rank": "rank of the right animal",
            "leader": "answer",
            "next": "next animal",
        }
    )
    return page_table("Encounters with several photographs", caption, shown)


def _with_visits(frame: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The table with encounters as they are shown, without empty columns."""
    shown_as = dict(zip(images["encounter"], images["visit"], strict=True))
    if "encounter" in frame:
        names = [shown_as.get(encounter) or encounter for encounter in frame["encounter"]]
        frame = frame.assign(encounter=names)
    return frame.dropna(axis="columns", how="all")


def _example_rows(
    data: RunData, outcomes: pd.DataFrame, pictures: Mapping[int, Picture]
) -> list[ExampleRow]:
    """The queries on the first page: mistakes first, as they teach most."""
    p = outcomes["probability"].fillna(-np.inf)
    stated = bool(np.isfinite(p).any())
    surest = ", with the highest probabilities." if stated else "."
    sure = outcomes.assign(p=p).sort_values("p", ascending=False, kind="stable")
    outcome = sure["outcome"]
    known, told = sure["decision"] == "known", outcome != "open"

    def row(title: str, note: str, part: pd.DataFrame, link: str) -> ExampleRow:
        head = part[:EXAMPLES]
        examples = [_example(data, query, pictures[query["image"]]) for _, query in head.iterrows()]
        return ExampleRow(title, note, examples, link)

    rows = [
        row(
            "New animals taken for known ones",
            "The gallery does not have these animals, yet they were counted as known.",
            sure[(outcome == "new") & known],
            "outcome=new&decision=known&sort=sure",
        ),
        row(
            "The surest mistakes",
            f"Another animal came first{surest}",
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
            f"The right animal came first{surest}",
            sure[outcome == "right"],
            "outcome=right&sort=sure",
        ),
        row("Unsure", UNSURE, sure[~told & (sure["kind"] == "unsure")], "decision=unsure"),
        row(
            "Answers",
            "The surest first." if stated else "In the order of the run.",
            sure[~told & (sure["kind"] == "not decided")],
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
