"""Review by a simulated person: how many questions it takes, and whether the audit is right.

A probe by the index of descriptors scores all photographs of a data set against each other, once;
a pair of visits has its best pair's score. In each run half of the animals, drawn by its seed, are
the ones that the curve of probabilities is fitted on, as exreid discover fits it. The visits of the
other half are reviewed by a person whose answers are right with a probability of --right. Every
question counts, also those of the audit and the repeated ones. Nearest first and most uncertain
first ask each pair once, or until two more answers say the one than the other; they skip those that
follow from answers so far, and have the same belief and the same search of a partition. *In
hindsight* is a bound, see `hindsight`.

--root names a data set with its columns as exreid takes them, of which the database side is used;
by default animals are generated, and --flank one keeps each one's more frequent flank. The person
says *can't tell* of a left flank and a right one, as nobody sees the other side of the animal; with
--viewpoints unknown exreid does not know which visits these are. An animal that no visit shows from
both sides is then two groups at best: the groups that can be known.

--of names: each half is a gallery in which one visit in twenty has another animal's name, until no
name is doubted; beside it, each visit is seen beside its likest one of the same name. --of
identification: half of the visits of four animals in five are a gallery, and the others are
identified and confirmed; beside it, the person goes through the gallery's animals, the likest
first.
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
from _review_names import OF, VERDICT, person_of
from _review_rows import Course, add_ratios, add_targets, add_way
from _review_visits import Visits, half, hindsight, scored_visits, with_both_flanks

from exreid.metrics.grouping import adjusted_rand_index
from exreid.review.asking import decided, next_question
from exreid.review.belief import TEMPER, PairGraph, votes_of
from exreid.review.decisions import Decision
from exreid.review.doubts import MOST_ASKED
from exreid.review.partition import find_partition
from exreid.review.state import load, subject_of

TWICE = ", until two agree"
OTHERS = tuple(
    way + how for way in ("nearest first", "most uncertain first") for how in ("", TWICE)
)
WAYS = ("no person", "in hindsight", *OTHERS, "exreid")


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
    temper: float
    """Of the belief of all ways, see `PairGraph`."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--flank", choices=("one", "both"), default="one", help="of made animals")
    parser.add_argument("--both", type=float, default=0.0, help="share of visits of an animal's "
        "rarer flank that show the other one too")  # fmt: skip
    parser.add_argument("--viewpoints", choices=("known", "unknown"), default="known", help="to "
        "exreid; the person sees them")  # fmt: skip
    parser.add_argument("--of", choices=("groups", *OF), default="groups")
    parser.add_argument("--seed", type=int, default=5, help="of the generated animals")
    parser.add_argument("--runs", type=int, default=20, help="halves of animals, each a person")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first run")
    parser.add_argument("--most", type=int, default=100, help="questions per 100 visits")
    parser.add_argument("--every", type=int, default=2, help="look after so many per 100 visits")
    parser.add_argument("--right", type=float, default=0.97, help="share of right answers")
    parser.add_argument("--temper", type=float, default=TEMPER, help="of the scores, for all ways")
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
    graph: PairGraph,
    key_P: np.ndarray,
    answer: Callable[[int, int], int],
    most: int,
    step: int,
    *,
    lead: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """(questions, partition) of a baseline. Each pair is asked until so many more answers say the
    one than the other, or one says nothing."""
    answers: list[tuple[int, int, int]] = []
    settled: list[tuple[int, int, int]] = []
    signs: list[int] = []
    following = baseline(graph, key_P)
    group_V = find_partition(graph)
    yield 0, group_V
    row = following(settled)
    while row >= 0 and len(answers) < most:
        first, second = graph.pair_P2[row].tolist()
        signs.append(answer(first, second))
        answers.append((first, second, signs[-1]))
        if signs[-1] == 0 or abs(sum(signs)) >= lead or len(signs) == MOST_ASKED:
            settled.append((first, second, int(np.sign(sum(signs)))))
            signs, row = [], following(settled)
        if len(answers) % step == 0 or row < 0:
            table = np.array(answers, np.int64)
            votes = votes_of(table[:, :2], table[:, 2], np.full(len(table), 0.97))
            said = votes.said_N > 0
            more = graph.plus(votes.pair_N2[said], votes.evidence_N[said])
            group_V = find_partition(more, group_V)
            yield len(answers), group_V


def course(visits: Visits, way: str, person: Person, seed: int) -> Course:
    """One run of one way."""
    visits = with_both_flanks(visits, person.both, seed) if person.both else visits
    graph, visits = half(visits, seed, viewpoints=person.viewpoints, temper=person.temper)
    animal_V, knowable_V = visits.animal_V, visits.knowable()
    answer = person_of(visits, person.right, seed)
    most, step = (max(share * len(animal_V) // 100, 1) for share in (person.most, person.every))

    def judged(group_V: np.ndarray) -> tuple[float, ...]:
        return *quality(animal_V, group_V), adjusted_rand_index(knowable_V, group_V)

    audit, stopped = None, False
    asked, found = [], []
    if way in OTHERS:
        odds_P = graph.evidence_P + graph.prior
        key_P = -odds_P if way.startswith("nearest first") else np.abs(odds_P)
        lead = 2 if way.endswith(TWICE) else 1
        for count, group_V in asked_in_order(graph, key_P, answer, most, step, lead=lead):
            asked.append(count)
            found.append(judged(group_V))
    elif way == "in hindsight":
        for count, group_V in hindsight(visits):
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


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    runs, most = (3, 20) if options.quick else (options.runs, options.most)
    visits = scored_visits(options)
    seeds = range(options.first, options.first + runs)
    if options.of in OF:
        report = Report(
            f"Review of {options.of}: half of {len(visits.animal_V)} visits, {runs} runs"
        )
        one_run, add_rows = OF[options.of]
        with ProcessPoolExecutor(options.workers) as pool:
            add_rows(report, list(pool.map(partial(one_run, visits, options.right), seeds)))
        report.show(options.json)
        return
    known = options.viewpoints == "known"
    person = Person(options.right, known, options.both, most, options.every, options.temper)
    report = Report(
        f"Review of half of {len(visits.animal_V)} visits of {visits.animal_V.max() + 1} animals, "
        f"{runs} runs"
    )
    budgets = [
        budget
        for budget in (0, 5, 10, 20, 50, 100, 200, 300, 400, 600, 900, 1200)
        if budget <= most
    ]
    found = {}
    with ProcessPoolExecutor(options.workers) as pool:
        for way in [options.only] if options.only else WAYS:
            found[way] = list(pool.map(partial(course, visits, way, person), seeds))
            add_way(report, way, found[way], budgets)
    add_targets(report, found, most)
    if not options.only:
        add_ratios(report, found, OTHERS, budgets)
    report.show(options.json)


if __name__ == "__main__":
    main()
