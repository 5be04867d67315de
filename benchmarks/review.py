"""Review by a simulated person: how many questions it takes, and whether the audit is right.

A probe by the index of descriptors scores all photographs of a data set against each other, once;
a pair of visits has its best pair's score. In each run half of the animals, drawn by its seed, are
the ones that the curve of probabilities is fitted on, as exreid discover fits it. The visits of the
other half are reviewed by a person whose answers are right with a probability of --right. Every
question counts, also those of the audit and the repeated ones. Nearest first and most uncertain
first ask each pair once, skip those that follow from answers so far, and have the same belief and
the same search of a partition.

--root names a data set with its columns as exreid takes them, of which the database side is used;
by default animals are generated, and --flank one keeps each one's more frequent flank. The person
says *can't tell* of a left flank and a right one, as nobody sees the other side of the animal; with
--viewpoints unknown exreid does not know which visits these are. An animal that no visit shows from
both sides is then two groups at best: the groups that can be known.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from _report import Report, data_parser
from _review_visits import Visits, half, scored_visits, with_both_flanks

from exreid.metrics.grouping import adjusted_rand_index
from exreid.review.asking import decided, next_question
from exreid.review.audit import AuditResult
from exreid.review.belief import PairGraph, votes_of
from exreid.review.decisions import Decision, Verdict
from exreid.review.partition import find_partition
from exreid.review.state import load, subject_of

MEASURES = ("ARI", "pairwise precision", "pairwise recall", "", "ARI of what can be known")
WAYS = ("no person", "nearest first", "most uncertain first", "exreid")
GOAL = 0.99
VERDICT: dict[int, Verdict] = {1: "same", -1: "different", 0: "can't tell"}
RESAMPLES = 2000


@dataclass(frozen=True)
class Person:
    """Who answers; numbers of questions are per 100 visits."""

    right: float
    viewpoints: bool
    """Whether the flanks of the photographs are known; the person sees them anyway."""
    both: float
    """The share of visits joined as by `with_both_flanks`."""
    most: int
    every: int
    """The partition is looked at after each so many questions."""


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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--flank", choices=("one", "both"), default="one", help="of made animals")
    parser.add_argument("--both", type=float, default=0.0, help="share of visits of an animal's "
        "rarer flank that show the other one too")  # fmt: skip
    parser.add_argument("--viewpoints", choices=("known", "unknown"), default="known", help="to "
        "exreid; the person sees them")  # fmt: skip
    parser.add_argument("--seed", type=int, default=5, help="of the generated animals")
    parser.add_argument("--runs", type=int, default=20, help="halves of animals, each a person")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first run")
    parser.add_argument("--most", type=int, default=100, help="questions per 100 visits")
    parser.add_argument("--every", type=int, default=2, help="look after so many per 100 visits")
    parser.add_argument("--right", type=float, default=0.97, help="share of right answers")
    parser.add_argument("--only", choices=WAYS, help="one way, not all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    return parser.parse_args()


def quality(animal_V: np.ndarray, group_V: np.ndarray) -> tuple[float, float, float, float]:
    """ARI, pairwise precision, pairwise recall, found less true number of animals."""
    first, second = np.triu_indices(len(animal_V), 1)
    same, found = animal_V[first] == animal_V[second], group_V[first] == group_V[second]
    both = float((same & found).sum())
    error = float(len(np.unique(group_V)) - len(np.unique(animal_V)))
    return (
        adjusted_rand_index(animal_V, group_V),
        both / found.sum() if found.any() else 1.0,
        both / same.sum() if same.any() else 1.0,
        error,
    )


def baseline(graph: PairGraph, key_P: np.ndarray) -> Callable[[list[tuple[int, int, int]]], int]:
    """The next row to ask: the smallest key whose answer does not follow from earlier answers.

    A sign of 0 says nothing.
    """
    order = iter(np.argsort(key_P, kind="stable").tolist())
    owner_V = np.arange(graph.visits)
    apart: set[tuple[int, int]] = set()

    def following(answers: list[tuple[int, int, int]]) -> int:
        nonlocal apart
        if answers:
            first, second, sign = answers[-1]
            one, other = sorted((int(owner_V[first]), int(owner_V[second])))
            if sign < 0:
                apart.add((one, other))
            elif sign > 0 and one != other:
                owner_V[owner_V == other] = one
                moved = [[one if end == other else end for end in pair] for pair in apart]
                apart = {(min(pair), max(pair)) for pair in moved}
        for row in order:
            one, other = sorted(owner_V[graph.pair_P2[row]].tolist())
            if one != other and (one, other) not in apart:
                return row
        return -1

    return following


def asked_in_order(
    graph: PairGraph, key_P: np.ndarray, answer: Callable[[int, int], int], most: int, step: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(questions, partition) of a baseline."""
    answers: list[tuple[int, int, int]] = []
    following = baseline(graph, key_P)
    group_V = find_partition(graph)
    yield 0, group_V
    while len(answers) < most:
        row = following(answers)
        if row < 0:
            return
        first, second = graph.pair_P2[row].tolist()
        answers.append((first, second, answer(first, second)))
        if len(answers) % step == 0:
            table = np.array(answers, np.int64)
            votes = votes_of(table[:, :2], table[:, 2], np.full(len(table), 0.97))
            said = votes.said_N > 0
            more = graph.plus(votes.pair_N2[said], votes.evidence_N[said])
            group_V = find_partition(more, group_V)
            yield len(answers), group_V


def course(visits: Visits, way: str, person: Person, seed: int) -> Course:
    """One run of one way."""
    visits = with_both_flanks(visits, person.both, seed) if person.both else visits
    graph, visits = half(visits, seed, viewpoints=person.viewpoints)
    animal_V, knowable_V = visits.animal_V, visits.knowable()
    random = np.random.default_rng([seed, 1])
    most, step = (max(share * len(animal_V) // 100, 1) for share in (person.most, person.every))

    def answer(first: int, second: int) -> int:
        if not visits.can_tell(first, second):
            return 0
        right = random.random() < person.right
        return 1 if (animal_V[first] == animal_V[second]) == right else -1

    def judged(group_V: np.ndarray) -> tuple[float, ...]:
        return *quality(animal_V, group_V), adjusted_rand_index(knowable_V, group_V)

    audit, stopped = None, False
    asked, found = [], []
    if way in ("nearest first", "most uncertain first"):
        odds_P = graph.evidence_P + graph.prior
        key_P = -odds_P if way == "nearest first" else np.abs(odds_P)
        for count, group_V in asked_in_order(graph, key_P, answer, most, step):
            asked.append(count)
            found.append(judged(group_V))
    else:
        names = [f"visit {v:06d}" for v in range(len(animal_V))]
        subject = subject_of(names, graph, seed)
        state, rows = load(subject, []), list[Decision]()
        for count in range(1 + (most if way == "exreid" else 0)):
            question = next_question(state, "person") if way == "exreid" else None
            if count % step == 0 or question is None:
                asked.append(count)
                found.append(judged(state.result.doubts.group_V))
            stopped = question is None
            if question is None:
                break
            sign = answer(subject.place[question.first], subject.place[question.second])
            when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=count)).isoformat()
            rows.append(decided(question, VERDICT[sign], who="person", when=when, seconds=3.0))
            state = load(subject, rows, state)
        audit = state.audit
    return Course(
        len(animal_V),
        len(np.unique(animal_V)),
        len(np.unique(knowable_V)),
        np.array(asked),
        np.array(found),
        stopped and way == "exreid",
        audit,
    )


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
    add_audits(report, [(run, run.audit) for run in courses if run.audit])


def add_audits(report: Report, audited: list[tuple[Course, AuditResult]]) -> None:
    """How often the audit's intervals have the truth, and how wide they are."""
    if not audited:
        return
    report.add("runs with an audit", len(audited), "")
    of_groups = [(audit.animals.low, run.groups, audit.animals.high) for run, audit in audited]
    of_animals = [(audit.fewest.low, run.animals, audit.animals.high) for run, audit in audited]
    for name, ends in (("groups that can be known", of_groups), ("animals", of_animals)):
        low_R, true_R, high_R = np.array(ends).T
        share = float(np.mean((low_R <= true_R) & (true_R <= high_R)))
        report.add(f"audit: runs whose interval has the number of {name}", 100 * share, "%")
        width = float(np.median(high_R - low_R))
        report.add(f"audit: width of that interval of {name}, median", width, "")


def add_ratios(report: Report, courses: dict[str, list[Course]], budgets: list[int]) -> None:
    """How many questions exreid takes to the mean ARI of each other way after so many, as a share
    of these; the interval by drawing the runs anew."""
    random = np.random.default_rng(0)
    of_way = {}
    for way, runs in courses.items():
        asked = np.arange(max(budgets) + 1)
        after = [
            np.searchsorted(run.asked_T, asked * run.visits / 100, "right") - 1 for run in runs
        ]
        of_way[way] = np.array(
            [run.quality_T5[place, 0] for run, place in zip(runs, after, strict=True)]
        )
    own_RB = of_way["exreid"]
    draws = [np.arange(len(own_RB)), *random.integers(0, len(own_RB), (RESAMPLES, len(own_RB)))]
    for way in ("nearest first", "most uncertain first"):
        for budget in [one for one in budgets if one >= 100]:
            ratios = []
            for drawn in draws:
                there = np.flatnonzero(
                    own_RB[drawn].mean(axis=0) >= of_way[way][drawn, budget].mean()
                )
                ratios.append(there[0] / budget if len(there) else np.inf)
            low, high = np.quantile(ratios[1:], [0.025, 0.975], method="nearest")
            name = f"exreid's questions to where {way} is after {budget}"
            report.add(name, ratios[0], f"x {budget}", interval=(float(low), float(high)))


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    runs, most = (3, 20) if options.quick else (options.runs, options.most)
    visits = scored_visits(options)
    known = options.viewpoints == "known"
    person = Person(options.right, known, options.both, most, options.every)
    report = Report(
        f"Review of half of {len(visits.animal_V)} visits of {visits.animal_V.max() + 1} animals, "
        f"{runs} runs"
    )
    budgets = [
        budget for budget in (0, 5, 10, 20, 50, 100, 200, 300, 400, 600, 900) if budget <= most
    ]
    seeds, found = range(options.first, options.first + runs), {}
    with ProcessPoolExecutor(options.workers) as pool:
        for way in [options.only] if options.only else WAYS:
            found[way] = list(pool.map(partial(course, visits, way, person), seeds))
            add_way(report, way, found[way], budgets)
    if not options.only:
        add_ratios(report, found, budgets)
    report.show(options.json)


if __name__ == "__main__":
    main()
