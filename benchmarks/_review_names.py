"""Names that are there already, for benchmarks/review.py: a gallery with wrong names, and an
identification, each reviewed by a simulated person and, beside it, by one who goes through all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations

import numpy as np
import pandas as pd
from _report import Report
from _review_visits import Visits, in_halves

from exreid.calibration.curves import fit_calibration
from exreid.report.reviewed_gallery import named_graph
from exreid.report.reviewed_identification import LISTED, MOST_CANDIDATES, UNLISTED
from exreid.report.run_pairs import LEAST, MOST
from exreid.review.asking import Question, decided, next_confirmation, next_doubt
from exreid.review.belief import PairGraph, pair_graph
from exreid.review.decisions import Decision, Verdict
from exreid.review.state import State, load, subject_of

VERDICT: dict[int, Verdict] = {1: "same", -1: "different", 0: "can't tell"}
PLANTED, NEW_SHARE = 0.05, 0.2
RESAMPLES = 2000
Answer = Callable[[int, int], int]


@dataclass(frozen=True)
class NamesRun:
    """A gallery with planted mistakes, after its review; counts of visits."""

    visits: int
    planted: int
    asked: int
    found: int
    """Planted ones that are no more with the animal whose name they had."""
    returned: int
    """Of these, with their own animal again."""
    parted: int
    """With a right name, and no more with the others of it."""
    all_asked: int
    """Questions of a person who sees each visit beside its likest one of the same name."""
    all_found: int


@dataclass(frozen=True)
class IdentifiedRun:
    """An identification, after its review; counts of visits."""

    visits: int
    known: int
    """Of animals of the gallery."""
    strangers: int
    first: int
    """Of known animals, with the right animal first."""
    asked: int
    named: int
    """Joined to the right animal."""
    misnamed: int
    """Joined to a wrong one."""
    new: int
    """Of new animals, joined to no known one."""
    all_asked: int
    """Questions of a person who goes through the known animals, the likest first, until *same*."""
    all_named: int
    all_misnamed: int


def person_of(visits: Visits, right: float, seed: int) -> Answer:
    """Answers about two visits: 1, -1, or 0 where no flank is in both."""
    random, animal_V = np.random.default_rng([seed, 1]), visits.animal_V

    def answer(first: int, second: int) -> int:
        if not visits.can_tell(first, second):
            return 0
        told = random.random() < right
        return 1 if (animal_V[first] == animal_V[second]) == told else -1

    return answer


def _reviewed(
    names: Sequence[str],
    graph: PairGraph,
    following: Callable[[State], Question | None],
    answer: Answer,
) -> tuple[np.ndarray, int]:
    """The groups when nothing is asked any more, and the number of questions."""
    subject = subject_of(names, graph)
    state, rows = load(subject, []), list[Decision]()
    while (question := following(state)) is not None:
        sign = answer(subject.place[question.first], subject.place[question.second])
        when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=len(rows))).isoformat()
        rows.append(decided(question, VERDICT[sign], who="person", when=when, seconds=3.0))
        state = load(subject, rows, state)
    return state.result.doubts.group_V, len(rows)


def named_run(every: Visits, right: float, seed: int) -> NamesRun:
    """One half is a gallery in which a share of the visits, `PLANTED`, has another animal's name;
    the curve is fitted on the names."""
    _, visits = in_halves(every, seed)
    random = np.random.default_rng([seed, 3])
    count, animal_V = len(visits.animal_V), visits.animal_V
    sizes = np.bincount(animal_V)
    wrong = random.choice(
        np.flatnonzero(sizes[animal_V] > 1), max(round(PLANTED * count), 1), False
    )
    right_V = ~np.isin(np.arange(count), wrong)
    name_V = animal_V.copy()
    for visit in wrong:
        others = np.unique(animal_V[right_V & (animal_V != animal_V[visit])])
        name_V[visit] = random.choice(others)
    pair_P2 = np.array(list(combinations(range(count), 2)), np.int64)
    score_P = visits.score_VV[tuple(pair_P2.T)]
    curve = fit_calibration(
        score_P, name_V[pair_P2[:, 0]] == name_V[pair_P2[:, 1]], kind="logistic"
    )
    table = pd.DataFrame(pair_P2, columns=["first", "second"])
    table["probability"] = curve.apply(score_P)
    answer = person_of(visits, right, seed)

    def following(state: State) -> Question | None:
        group_V = state.result.doubts.group_V
        names = pd.Series(name_V).groupby(group_V).nunique()
        return next_doubt(state, "person", names.index[names > 1].tolist())

    names = [f"visit {visit:06d}" for visit in range(count)]
    graph = named_graph(name_V.astype(str), table)
    group_V, asked = _reviewed(names, graph, following, answer)

    def with_any(visit: int, others_V: np.ndarray) -> bool:
        return bool(np.any(others_V & (group_V == group_V[visit]) & (np.arange(count) != visit)))

    found = [visit for visit in wrong if not with_any(visit, right_V & (animal_V == name_V[visit]))]
    back = [visit for visit in found if with_any(visit, right_V & (animal_V == animal_V[visit]))]
    parted = 0
    for animal in np.unique(animal_V):
        own = group_V[right_V & (animal_V == animal)]
        parted += len(own) - np.bincount(own).max(initial=0)
    all_asked = all_found = 0
    for visit in range(count):
        others = np.flatnonzero((name_V == name_V[visit]) & (np.arange(count) != visit))
        if len(others):
            likest = int(others[np.argmax(visits.score_VV[visit, others])])
            said, all_asked = answer(visit, likest), all_asked + 1
            all_found += said < 0 and not right_V[visit]
    return NamesRun(
        count, len(wrong), asked, len(found), len(back), int(parted), all_asked, all_found
    )


def _likest(visits: Visits, of_V: np.ndarray, gallery_V: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each visit ``of_V`` and each animal of the gallery the likest visit (not itself) and its
    score; and the animals."""
    animals = np.unique(visits.animal_V[gallery_V])
    best = np.full((len(of_V), len(animals)), -1, np.int64)
    score = np.full(best.shape, -1.0)
    for place, animal in enumerate(animals):
        own = np.flatnonzero(gallery_V & (visits.animal_V == animal))
        scores = np.where(own == of_V[:, None], -2.0, visits.score_VV[np.ix_(of_V, own)])
        best[:, place], score[:, place] = own[scores.argmax(axis=1)], scores.max(axis=1)
    return best, score, animals


def identified_run(every: Visits, right: float, seed: int) -> IdentifiedRun:
    """Of one half a share of the animals, `NEW_SHARE`, is new, and half of the others' visits are
    the gallery; the curves are fitted on the other half."""
    other, visits = in_halves(every, seed)
    random, animal_V = np.random.default_rng([seed, 4]), visits.animal_V
    animals = random.permutation(np.unique(animal_V))
    new_V = np.isin(animal_V, animals[: round(NEW_SHARE * len(animals))])
    gallery_V = np.zeros(len(animal_V), bool)
    for animal in np.unique(animal_V[~new_V]):
        own = random.permutation(np.flatnonzero(animal_V == animal))
        gallery_V[own[: (len(own) + 1) // 2]] = True
    query_Q = np.flatnonzero(~gallery_V)
    everyone = np.ones(len(other.animal_V), bool)
    _, score_QA, known = _likest(other, np.flatnonzero(everyone), everyone)
    same_QA, scored_QA = other.animal_V[:, None] == known, score_QA >= 0
    of_animal = fit_calibration(score_QA[scored_QA], same_QA[scored_QA], kind="logistic")
    upper = np.triu_indices(len(other.animal_V), 1)
    same_P = other.animal_V[upper[0]] == other.animal_V[upper[1]]
    of_pair = fit_calibration(other.score_VV[upper], same_P, kind="logistic")

    best_QA, score_QA, known_A = _likest(visits, query_Q, gallery_V)
    chance_QA = of_animal.apply(score_QA.ravel()).reshape(score_QA.shape)
    order_QA = np.argsort(-score_QA, axis=1, kind="stable")
    rank_QA = np.argsort(order_QA, axis=1)
    proposed_QA = (chance_QA >= LISTED) | (rank_QA < MOST_CANDIDATES)
    count = len(known_A)
    pairs = {(a, count + q): chance_QA[q, a] for q, a in np.argwhere(proposed_QA).tolist()}
    called_new = np.flatnonzero(chance_QA.max(axis=1) < 0.5)
    for one, two in combinations(called_new.tolist(), 2):
        pairs[count + one, count + two] = float(
            of_pair.apply(visits.score_VV[query_Q[[one]], query_Q[two]])[0]
        )
    listed = sorted(pairs)
    probability = np.clip([pairs[pair] for pair in listed], LEAST, MOST)
    graph = pair_graph(
        count + len(query_Q),
        np.array(listed, np.int64),
        probability,
        unlisted=min(UNLISTED, float(probability.min())),
        apart_N2=np.array(list(combinations(range(count), 2)), np.int64),
    )
    known_V = np.arange(count + len(query_Q)) < count
    answer = person_of(visits, right, seed)

    def shown(first: int, second: int) -> int:
        query = query_Q[second - count]
        return answer(
            int(best_QA[second - count, first] if first < count else query_Q[first - count]), query
        )

    def following(state: State) -> Question | None:
        return next_confirmation(state, "person", known_V, np.flatnonzero(~known_V).tolist())

    names = [f"{'visit' if v >= count else 'known'} {v:06d}" for v in range(len(known_V))]
    group_V, asked = _reviewed(names, replace(graph, unlisted=0.0), following, shown)
    owner = dict(zip(group_V[:count].tolist(), known_A.tolist(), strict=True))
    said_Q = np.array([owner.get(int(group), -1) for group in group_V[count:]])
    true_Q, known_Q = animal_V[query_Q], ~new_V[query_Q]
    all_asked, all_said = 0, np.full(len(query_Q), -1)
    for query in range(len(query_Q)):
        for animal in order_QA[query].tolist():
            all_asked += 1
            if shown(animal, count + query) > 0:
                all_said[query] = known_A[animal]
                break
    return IdentifiedRun(
        visits=len(query_Q),
        known=int(known_Q.sum()),
        strangers=int((~known_Q).sum()),
        first=int((known_A[order_QA[:, 0]] == true_Q).sum()),
        asked=asked,
        named=int((said_Q == true_Q).sum()),
        misnamed=int(((said_Q >= 0) & (said_Q != true_Q)).sum()),
        new=int((said_Q < 0)[~known_Q].sum()),
        all_asked=all_asked,
        all_named=int((all_said == true_Q).sum()),
        all_misnamed=int(((all_said >= 0) & (all_said != true_Q)).sum()),
    )


def add_shares(report: Report, shares: dict[str, tuple[list[float], list[float]]]) -> None:
    """Rows of sums over sums, in per cent; the interval by drawing the runs anew."""
    random = np.random.default_rng(0)
    for name, (part, whole) in shares.items():
        part_R, whole_R = np.array(part, float), np.array(whole, float)
        drawn = random.integers(0, len(part_R), (RESAMPLES, len(part_R)))
        found = 100 * part_R[drawn].sum(axis=1) / whole_R[drawn].sum(axis=1)
        low, high = np.quantile(found, [0.025, 0.975])
        value = 100 * part_R.sum() / whole_R.sum()
        report.add(name, float(value), "%", interval=(float(low), float(high)))


def add_names(report: Report, runs: list[NamesRun]) -> None:
    """The rows of --of names."""

    def of(name: str) -> list[float]:
        return [getattr(run, name) for run in runs]

    add_shares(
        report,
        {
            "visits with a planted wrong name": (of("planted"), of("visits")),
            "exreid: questions per visit": (of("asked"), of("visits")),
            "exreid: planted ones found": (of("found"), of("planted")),
            "exreid: planted ones with their own animal again": (of("returned"), of("planted")),
            "exreid: right ones parted from their animal": (of("parted"), of("visits")),
            "all visits: questions per visit": (of("all_asked"), of("visits")),
            "all visits: planted ones found": (of("all_found"), of("planted")),
        },
    )


def add_identified(report: Report, runs: list[IdentifiedRun]) -> None:
    """The rows of --of identification."""

    def of(name: str) -> list[float]:
        return [getattr(run, name) for run in runs]

    every = of("visits")
    add_shares(
        report,
        {
            "right animal first, of known animals": (of("first"), of("known")),
            "exreid: questions per visit": (of("asked"), every),
            "exreid: joined to the right animal, of known animals": (of("named"), of("known")),
            "exreid: joined to a wrong animal": (of("misnamed"), every),
            "exreid: joined to none, of new animals": (of("new"), of("strangers")),
            "all animals: questions per visit": (of("all_asked"), every),
            "all animals: right, of known animals": (of("all_named"), of("known")),
            "all animals: wrong": (of("all_misnamed"), every),
        },
    )


OF: dict[str, tuple[Callable[..., object], Callable[..., None]]] = {
    "names": (named_run, add_names),
    "identification": (identified_run, add_identified),
}
"""What makes a run, and what adds the rows of several."""
