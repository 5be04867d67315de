"""What a report says of how far a run can be believed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from exreid.explain.page_plots import reliability_plot
from exreid.explain.words import count_words, method_words, percent
from exreid.metrics.reliability import reliability
from exreid.report.pages import NumberWithMeaning, PageTable, Plot, page_table
from exreid.report.read import RunData

LEAST_QUERIES = 20
"""Fewer are not plotted by their stated probability."""
LEAKS = (
    *("queries_same_file", "queries_same_picture", "queries_of_cut_encounters"),
    *("copies_under_two_animals", "blank_images"),
)


def trust_numbers(data: RunData) -> list[NumberWithMeaning]:
    """Errors of probabilities, false matches as promised and as measured, leaks."""
    numbers = []
    if data.held_out is not None:
        held = data.held_out
        numbers.append(
            NumberWithMeaning(
                "Probabilities are off by",
                percent(held.ece),
                "On average, on pairs of gallery animals that the probabilities were not fitted "
                f"on (before calibration: {percent(held.ece_before)}).",
            )
        )
        no_better = held.brier >= held.brier_base_rate
        numbers.append(
            NumberWithMeaning(
                "Error of a probability (Brier score)",
                f"{held.brier:.3f}",
                f"0 is perfect; always stating the average gives {held.brier_base_rate:.3f}"
                + (", which is no worse: do not go by the probabilities." if no_better else "."),
            )
        )
    rule = data.rule
    if rule is not None and rule.false_match_rate is not None:
        numbers.append(
            NumberWithMeaning(
                "New animals that pass for known ones, as promised",
                f"at most {percent(rule.false_match_rate)}",
                "The bar was chosen on the gallery so that this rate holds for new animals that "
                "resemble the gallery's own.",
            )
        )
    elif rule is not None and rule.no_rate:
        title = "New animals that pass for known ones"
        numbers.append(NumberWithMeaning(title, "not promised", rule.no_rate))
    rate = data.result.metrics.get("false_match_rate")
    if rate is not None:
        ends = data.result.intervals.get("false_match_rate")
        between = f" (95%: {percent(ends[0])} to {percent(ends[1])})" if ends else ""
        numbers.append(
            NumberWithMeaning(
                "New animals that passed, as measured here",
                percent(rate),
                f"Share of photographs of new animals that were called known{between}.",
            )
        )
    for name in LEAKS:
        count = data.result.counts.get(name)
        if isinstance(count, int):
            label, meaning = count_words(name)
            numbers.append(NumberWithMeaning(label, f"{count:,}", meaning))
    return numbers


def trust_tables(data: RunData) -> list[PageTable]:
    """Leaks, the faithfulness of explanations, and images that were left out."""
    tables = []
    if data.leaks is not None and len(data.leaks):
        caption = (
            "Queries that resemble a gallery photograph too much to count as evidence, such as "
            "the same picture twice."
        )
        tables.append(page_table("Possible leaks", caption, data.leaks))
    if data.faithfulness is not None and len(data.faithfulness):
        caption = (
            "What happens to the score when the regions shown as evidence are hidden, compared "
            "with hiding others."
        )
        tables.append(page_table("Are the explanations true?", caption, data.faithfulness))
    if data.rejected is not None and len(data.rejected):
        caption = "They could not be used; the reason is given."
        tables.append(page_table("Photographs left out", caption, data.rejected))
    return tables


def trust_plots(data: RunData, outcomes: pd.DataFrame) -> list[Plot]:
    """Whether stated probabilities hold: on gallery pairs, and on the answers themselves."""
    plots = []
    pairs = data.calibration_pairs
    if pairs is not None:
        if "is_shown" in pairs and pairs["is_shown"].any():
            pairs = pairs[pairs["is_shown"]]
        names = [name for name in pairs.columns if name.startswith("held_out:")]
        known = pairs[names].notna().all(axis=1) if names else pd.Series(dtype=bool)
        if names and known.any():
            plots.append(_pair_reliability(pairs[known], names))
    stated = outcomes["probability"].notna() & (outcomes["outcome"] != "open")
    if data.open_set is not None and stated.sum() >= LEAST_QUERIES:
        right = (outcomes["outcome"] == "right")[stated].to_numpy()
        diagram = reliability(
            outcomes["probability"][stated].to_numpy(np.float64), right, bins=8, equal_count=True
        )
        text = (
            "Every dot is about an eighth of the photographs of this run. On the dashed line, "
            "answers are right as often as stated; below it, less often. The statement assumes "
            "as many new as known animals unless the run was told otherwise."
        )
        svg = reliability_plot("answers", {"answers": diagram}, text=text)
        plots.append(Plot("answers", "Are answers right as often as stated?", text, svg))
    return plots


def _pair_reliability(pairs: pd.DataFrame, names: list[str]) -> Plot:
    diagrams = {}
    for name in names:
        label = name.removeprefix("held_out:")
        words = "all together" if label == "fused" else method_words(label)
        diagrams[label if words in diagrams else words] = reliability(
            pairs[name].to_numpy(np.float64),
            pairs["is_match"].to_numpy(bool),
            weight_P=pairs["weight"].to_numpy(np.float64),
            equal_count=True,
        )
    text = (
        f"{len(pairs):,} pairs of gallery photographs, such as are shown as candidates, whose "
        "probabilities were fitted on other animals. On the dashed line, pairs show one animal "
        "as often as stated."
    )
    svg = reliability_plot("pairs", diagrams, text=text)
    return Plot("pairs", "Do the probabilities of pairs hold?", text, svg)
