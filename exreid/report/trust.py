"""How far a run can be trusted, as a report shows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from exreid.explain.page_plots import reliability_bars, reliability_lines
from exreid.explain.words import count_words, fused_words, percent
from exreid.metrics.reliability import brier_score, reliability
from exreid.progress import counted
from exreid.report.pages import NumberWithMeaning, PageTable, Plot, page_table
from exreid.report.read import RunData

LEAST_QUERIES = 20
"""Fewer are not plotted by their stated probability."""
LEAKS = (
    *("queries_same_file", "queries_same_picture", "queries_of_cut_encounters"),
    *("copies_under_two_animals", "blank_images"),
)


def trust_numbers(data: RunData, outcomes: pd.DataFrame) -> list[NumberWithMeaning]:
    """Errors of probabilities against trivial ones, false matches as promised and as measured,
    leaks; ``outcomes`` is `query_outcomes`."""
    numbers = []
    if data.held_out is not None:
        held = data.held_out
        about = (
            "On pairs of gallery animals that the probabilities were not fitted on. They are off "
            f"by {percent(held.ece)} on average."
        )
        title = "Probabilities of pairs, against always stating the average"
        numbers.append(_against_average(title, held.brier, held.brier_base_rate, about))
    answered = _answered(outcomes)
    if answered is not None:
        probability_Q, right_Q = answered
        share = right_Q.mean()
        about = f"On {counted(len(right_Q), 'answer')} of this run; right: {percent(share)}."
        title = "Probabilities of answers, against always stating the average"
        brier, base = brier_score(probability_Q, right_Q), float(share * (1 - share))
        numbers.append(_against_average(title, brier, base, about))
    rule = data.rule
    if rule is not None and rule.false_match_rate is not None:
        numbers.append(
            NumberWithMeaning(
                "New animals that pass for known ones, as promised",
                f"at most {percent(rule.false_match_rate)}",
                "The threshold was chosen on the gallery: it is for new animals that resemble "
                "the gallery's own.",
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
                f"Share of photographs of new animals that were counted as known{between}.",
            )
        )
    for name in LEAKS:
        count = data.result.counts.get(name)
        if isinstance(count, int):
            label, meaning = count_words(name)
            numbers.append(NumberWithMeaning(label, f"{count:,}", meaning))
    return numbers


def _against_average(title: str, brier: float, base: float, about: str) -> NumberWithMeaning:
    """The Brier skill score (Murphy 1973): by how much of its squared error a probability is better
    than the base rate, stated always."""
    errors = f"Squared error (Brier) {brier:.3f}; always stating the average has {base:.3f}."
    if brier >= base:
        warning = "Do not go by these probabilities."
        return NumberWithMeaning(title, "no better", f"{warning} {errors} {about}")
    return NumberWithMeaning(title, f"{100 * (1 - brier / base):.0f}% better", f"{errors} {about}")


def _answered(outcomes: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Stated probabilities of answers, and whether they are right; None for too few."""
    stated = outcomes["probability"].notna() & (outcomes["outcome"] != "open")
    if outcomes["decision"].isna().any() or stated.sum() < LEAST_QUERIES:
        return None
    right_Q = (outcomes["outcome"] == "right")[stated].to_numpy()
    return outcomes["probability"][stated].to_numpy(np.float64), right_Q


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
    """Whether stated probabilities are right: on gallery pairs, and on the answers themselves."""
    plots = []
    pairs = data.calibration_pairs
    if pairs is not None:
        if "is_shown" in pairs and pairs["is_shown"].any():
            pairs = pairs[pairs["is_shown"]]
        names = [name for name in pairs.columns if name.startswith("held_out:")]
        known = pairs[names].notna().all(axis=1) if names else pd.Series(dtype=bool)
        if names and known.any():
            plots.append(_pair_reliability(pairs[known], names))
    answered = _answered(outcomes)
    if answered is not None:
        text = (
            "Answers of this run, by the probability that was stated. It assumes as many new as "
            "known animals unless the run was told otherwise."
        )
        title = "Are answers right as often as stated?"
        plots.append(_reliability("answers", title, {"answers": answered}, text=text))
    return plots


def _reliability(
    name: str,
    title: str,
    stated: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    text: str,
    weight_P: np.ndarray | None = None,
) -> Plot:
    """Bars of the last of the stated probabilities; lines of all of them behind a click."""
    (probability_P, right_P) = list(stated.values())[-1]
    bars = reliability(probability_P, right_P, weight_P=weight_P)
    lines = {
        label: reliability(p, right, weight_P=weight_P, equal_count=True)
        for label, (p, right) in stated.items()
    }
    count_B, _ = np.histogram(probability_P, bars.edge_B1)
    text = (
        f"{text} A bar is as high as the share that turned out right; it should reach its orange "
        "line, the probability that was stated. Over each bar: how many."
    )
    more = reliability_lines(f"{name}-log", lines, text=text)
    return Plot(name, title, text, reliability_bars(name, bars, count_B, text=text), more)


def _pair_reliability(pairs: pd.DataFrame, names: list[str]) -> Plot:
    same_P = pairs["is_match"].to_numpy(bool)
    words = fused_words([name.removeprefix("held_out:") for name in names])
    stated = {
        label: (pairs[name].to_numpy(np.float64), same_P)
        for label, name in zip(words, names, strict=True)
    }
    text = (
        f"{counted(len(pairs), 'pair')} of gallery photographs, such as are shown as candidates, "
        "whose probabilities were fitted on other animals."
    )
    weight_P = pairs["weight"].to_numpy(np.float64)
    title = "Are pairs the same animal as often as stated?"
    return _reliability("pairs", title, stated, text=text, weight_P=weight_P)
