"""The rows of benchmarks/review.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from _report import Report

from exreid.review.audit import AuditResult

MEASURES = ("ARI", "pairwise precision", "pairwise recall", "", "ARI of what can be known")
GOAL = 0.99
TARGETS = (0.5, 0.6, 0.8, 0.9, 0.95)
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Course:
    """One run: a partition after each so many questions, and the audit's interval at its end."""

    visits: int
    animals: int
    groups: int
    """That can be known: an animal's flanks are two where no visit shows both."""
    asked_T: np.ndarray
    quality_T5: np.ndarray
    """ARI, pairwise precision, pairwise recall, found less true number of animals; and ARI with the
    groups that can be known."""
    stopped: bool
    audit: AuditResult | None


def mean_and_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean over the runs, and its 95% bootstrap interval."""
    random = np.random.default_rng(0)
    means = random.choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), (float(low), float(high))


def add_way(report: Report, way: str, courses: list[Course], budgets: list[int]) -> None:
    """The rows of one way: at each budget, and when the goal was reached."""
    for budget in budgets[:1] if way == "no person" else budgets:
        quality_R5 = np.array(
            [
                run.quality_T5[np.searchsorted(run.asked_T, budget * run.visits / 100, "right") - 1]
                for run in courses
            ]
        )
        for place, name in enumerate(MEASURES):
            if name:
                value, interval = mean_and_interval(quality_R5[:, place])
                report.add(f"{way}, {budget}: {name}", value, "", interval=interval)
        value, interval = mean_and_interval(np.abs(quality_R5[:, 3]))
        report.add(f"{way}, {budget}: error of the count", value, "animals", interval=interval)
    if way == "no person":
        return
    reached = []
    for run in courses:
        there = np.flatnonzero(run.quality_T5[:, 4] >= GOAL)
        reached.append(100 * run.asked_T[there[0]] / run.visits if len(there) else np.inf)
    share = float(np.mean(np.isfinite(reached)))
    report.add(f"{way}: runs that reach ARI {GOAL}", 100 * share, "%")
    report.add(f"{way}: questions to ARI {GOAL}, median", float(np.median(reached)), "/ 100 visits")
    if way != "exreid":
        return
    ended = [run for run in courses if run.stopped]
    report.add(f"{way}: runs that say they are done", 100 * len(ended) / len(courses), "%")
    if ended:
        asked = np.array([100 * run.asked_T[-1] / run.visits for run in ended])
        value, interval = mean_and_interval(asked)
        report.add(f"{way}: questions when done", value, "/ 100 visits", interval=interval)
        value, interval = mean_and_interval(np.array([run.quality_T5[-1, 4] for run in ended]))
        report.add(f"{way}: {MEASURES[4]} when done", value, "", interval=interval)
    add_audits(report, courses)


def add_share(report: Report, name: str, part: int, of: int) -> None:
    """A share of runs with its 95% interval (Wilson)."""
    ends = scipy.stats.binomtest(part, of).proportion_ci(method="wilson")
    report.add(name, 100 * part / of, "%", interval=(100 * ends.low, 100 * ends.high))


def add_audits(report: Report, courses: list[Course]) -> None:
    """How often the audit has an interval and the truth in it, and how wide it is."""
    audited = [(run, run.audit) for run in courses if run.audit]
    if not audited:
        return
    add_share(report, "audit: runs with an interval", len(audited), len(courses))
    of_groups = [(audit.interval_of_groups, run.groups) for run, audit in audited]
    of_animals = [(audit.range_of_animals, run.animals) for run, audit in audited]
    for name, ends in (("groups that can be known", of_groups), ("animals", of_animals)):
        low_R, high_R, true_R = np.array([(*between, true) for between, true in ends]).T
        inside = int(np.count_nonzero((low_R <= true_R) & (true_R <= high_R)))
        add_share(report, f"audit: of these, with the number of {name}", inside, len(audited))
        width = float(np.median(high_R - low_R))
        report.add(f"audit: width of that interval of {name}, median", width, "")


def _curves(runs: list[Course], most: int) -> np.ndarray:
    """The ARI of each run after 0, 1, ... questions per 100 visits, (R, B)."""
    asked = np.arange(most + 1)
    after = [np.searchsorted(run.asked_T, asked * run.visits / 100, "right") - 1 for run in runs]
    return np.array([run.quality_T5[place, 0] for run, place in zip(runs, after, strict=True)])


def _reached(ari_RB: np.ndarray, target: float) -> float:
    """After how many questions the mean is as high."""
    there = np.flatnonzero(ari_RB.mean(axis=0) >= target)
    return float(there[0]) if len(there) else np.inf


def add_targets(report: Report, courses: dict[str, list[Course]], most: int) -> None:
    """The area under the mean ARI, and how many questions it takes to `TARGETS`; the intervals by
    drawing the runs anew."""
    for way, runs in courses.items():
        if way == "no person":
            continue
        ari_RB = _curves(runs, most)
        value, interval = mean_and_interval(ari_RB.mean(axis=1))
        report.add(f"{way}: area under the ARI up to {most}", value, "", interval=interval)
        for target in TARGETS:
            ends = [_reached(ari_RB[drawn], target) for drawn in _draws(len(runs))]
            report.add(f"{way}: to ARI {target}", ends[0], "/ 100 visits", interval=_ends(ends))


def add_ratios(
    report: Report, courses: dict[str, list[Course]], others: Sequence[str], budgets: list[int]
) -> None:
    """How many questions exreid takes to where each other way is after so many, and to `TARGETS`,
    as a share of the other's; the intervals by drawing the runs anew, the same of both."""
    own_RB = _curves(courses["exreid"], max(budgets))
    for way in others:
        other_RB = _curves(courses[way], max(budgets))
        for budget in [one for one in budgets if one >= 100]:
            ratios = [
                _reached(own_RB[drawn], other_RB[drawn, budget].mean()) / budget
                for drawn in _draws(len(own_RB))
            ]
            name = f"exreid's questions to where {way} is after {budget}"
            report.add(name, ratios[0], f"x {budget}", interval=_ends(ratios))
        for target in TARGETS:
            ratios = [
                _reached(own_RB[drawn], target) / min(_reached(other_RB[drawn], target), 1e9)
                for drawn in _draws(len(own_RB))
            ]
            if np.isfinite(_reached(other_RB, target)):
                name = f"exreid's questions to ARI {target}, of those of {way}"
                report.add(name, ratios[0], "x", interval=_ends(ratios))


def _draws(runs: int) -> Iterator[np.ndarray]:
    """All runs, then as many drawn with replacement, `RESAMPLES` times."""
    yield np.arange(runs)
    yield from np.random.default_rng(0).integers(0, runs, (RESAMPLES, runs))


def _ends(values: list[float]) -> tuple[float, float]:
    """The 95% interval of all but the first."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="nearest")
    return float(low), float(high)
