"""Review by a simulated person: how many questions it takes, and whether the audit is right.

A probe by the index of descriptors scores all photographs of a data set against each other, once;
a pair of visits has its best pair's score. In each run half of the animals, drawn by its seed, are
the ones that the curve of probabilities is fitted on, as exreid discover fits it. The visits of the
other half are reviewed by a person whose answers are right with a probability of --right. Every
question counts, also those of the audit and the repeated ones. Nearest first and most uncertain
first ask each pair once, skip those that follow from answers so far, and have the same belief and
the same search of a partition.

--root names a data set with its columns as exreid takes them, of which the database side is used;
by default animals are generated, and --flank one keeps each one's more frequent flank.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pandas as pd
from _report import Report, data_parser

from exreid.calibration.curves import fit_calibration
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.metrics.grouping import adjusted_rand_index
from exreid.metrics.uncertainty import Estimate
from exreid.pipeline.inputs import read_images
from exreid.review.asking import decided, next_question
from exreid.review.belief import PairGraph, pair_graph, votes_of
from exreid.review.decisions import Decision, Verdict
from exreid.review.partition import find_partition
from exreid.review.state import load, subject_of
from exreid.runs.probe import run_probe

WAYS = ("no person", "nearest first", "most uncertain first", "exreid")
GOAL = 0.99
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Visits:
    """Scores of all pairs of visits, and the animal of each."""

    score_VV: np.ndarray
    animal_V: np.ndarray


@dataclass(frozen=True)
class Person:
    """Who answers; numbers of questions are per 100 visits."""

    right: float
    most: int
    every: int
    """The partition is looked at after each so many questions."""


@dataclass(frozen=True, eq=False)
class Course:
    """One run: a partition after each so many questions, and the audit's interval at its end."""

    visits: int
    animals: int
    asked_T: np.ndarray
    quality_T4: np.ndarray
    """ARI, pairwise precision, pairwise recall, found less true number of animals."""
    stopped: bool
    audit: Estimate | None


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = data_parser(__doc__)
    parser.add_argument("--flank", choices=("one", "both"), default="one", help="of made animals")
    parser.add_argument("--seed", type=int, default=5, help="of the generated animals")
    parser.add_argument("--runs", type=int, default=20, help="halves of animals, each a person")
    parser.add_argument("--most", type=int, default=100, help="questions per 100 visits")
    parser.add_argument("--every", type=int, default=2, help="look after so many per 100 visits")
    parser.add_argument("--right", type=float, default=0.97, help="share of right answers")
    parser.add_argument("--only", choices=WAYS, help="one way, not all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    return parser.parse_args()


def scored_visits(options: argparse.Namespace) -> Visits:
    """From ``visits.npz`` in --out where it is, else by a probe."""
    out = options.out or Path(tempfile.mkdtemp())
    file = out / "visits.npz"
    if file.exists():
        stored = np.load(file)
        return Visits(stored["score_VV"], stored["animal_V"])
    root, overrides = options.root, list(options.overrides)
    if root is None:
        root = out / "data"
        animals = 16 if options.quick else 50
        metadata = write_dataset(root, identities=animals, images_per_identity=8, seed=options.seed)
        rows = pd.read_csv(metadata)
        rows["all"] = "train"
        rows.to_csv(root / "all.csv", index=False)
        overrides += ["dataset.metadata_file=all.csv", "dataset.split_col=all"]
        overrides += ["dataset.encounter_cols=[source,encounter]", "dataset.viewpoint_col=pose"]
    keypoints = 64 if options.quick else options.keypoints
    overrides += [f"dataset.root={root}", f"output.root={out}", "ray.num_actors=0", "safety=off"]
    overrides += [f"benchmark.local_top_k={keypoints}", "benchmark.keep_candidates=100000"]
    overrides += ["benchmark.method=local_index", "benchmark.exclude=encounter"]
    database = load_config(ProbeConfig, None, overrides).dataset.database_split_value
    config = load_config(ProbeConfig, None, [*overrides, f"dataset.query_split_value={database}"])
    folder, _ = run_probe(config)
    visits = _by_visit(
        read_images(config)[0].rows,
        pd.read_parquet(folder / "rankings.parquet"),
        one_flank=options.root is None and options.flank == "one",
    )
    np.savez(file, score_VV=visits.score_VV, animal_V=visits.animal_V)
    return visits


def _by_visit(images: pd.DataFrame, rankings: pd.DataFrame, *, one_flank: bool) -> Visits:
    """The best score of each two encounters' photographs, in either direction."""
    images = images[images["image_id"].isin(rankings["query_id"])]
    if one_flank:
        often = images.groupby("identity")["viewpoint"].agg(lambda views: views.mode().iloc[0])
        images = images[images["viewpoint"] == images["identity"].map(often)]
    names = images["encounter"].astype(str) + "/" + images["identity"].astype(str)
    visit_of = dict(zip(images["image_id"], pd.factorize(names)[0], strict=True))
    first = rankings["query_id"].map(visit_of).to_numpy(np.float64)
    second = rankings["gallery_id"].map(visit_of).to_numpy(np.float64)
    known = ~np.isnan(first) & ~np.isnan(second)
    animal = images.groupby(pd.factorize(names)[0])["identity"].first()
    score_VV = np.full((len(animal), len(animal)), -1.0)
    place = (first[known].astype(int), second[known].astype(int))
    np.maximum.at(score_VV, place, rankings["score"].to_numpy()[known])
    return Visits(np.maximum(score_VV, score_VV.T), pd.factorize(animal)[0])


def half(visits: Visits, seed: int) -> tuple[PairGraph, np.ndarray]:
    """The graph of one half of the animals, with the curve of the other, and its animals."""
    animals = np.unique(visits.animal_V)
    fitted = np.random.default_rng(seed).permutation(animals)[: len(animals) // 2]
    fitted_V = np.isin(visits.animal_V, fitted)

    def pairs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pair_P2 = np.array(list(combinations(range(len(chosen)), 2)), np.int64)
        first, second = chosen[pair_P2].T
        animal_V = visits.animal_V
        return pair_P2, visits.score_VV[first, second], animal_V[first] == animal_V[second]

    _, score_P, same_P = pairs(np.flatnonzero(fitted_V))
    curve = fit_calibration(score_P, same_P, kind="logistic")
    reviewed = np.flatnonzero(~fitted_V)
    pair_P2, score_P, _ = pairs(reviewed)
    graph = pair_graph(len(reviewed), pair_P2, curve.apply(score_P), unlisted=1e-3)
    return graph, visits.animal_V[reviewed]


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
    """The next row to ask: the smallest key whose answer does not follow from earlier answers."""
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
            elif one != other:
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
    graph: PairGraph, key_P: np.ndarray, answer: Callable[[int, int], bool], most: int, step: int
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
        answers.append((first, second, 1 if answer(first, second) else -1))
        if len(answers) % step == 0:
            table = np.array(answers, np.int64)
            votes = votes_of(table[:, :2], table[:, 2], np.full(len(table), 0.97))
            group_V = find_partition(graph.plus(votes.pair_N2, votes.evidence_N), group_V)
            yield len(answers), group_V


def course(visits: Visits, way: str, person: Person, seed: int) -> Course:
    """One run of one way."""
    graph, animal_V = half(visits, seed)
    random = np.random.default_rng([seed, 1])
    most, step = (max(share * len(animal_V) // 100, 1) for share in (person.most, person.every))

    def answer(first: int, second: int) -> bool:
        return bool((animal_V[first] == animal_V[second]) == (random.random() < person.right))

    audit, stopped = None, False
    asked, found = [], []
    if way in ("nearest first", "most uncertain first"):
        odds_P = graph.evidence_P + graph.prior
        key_P = -odds_P if way == "nearest first" else np.abs(odds_P)
        for count, group_V in asked_in_order(graph, key_P, answer, most, step):
            asked.append(count)
            found.append(quality(animal_V, group_V))
    else:
        names = [f"visit {v:06d}" for v in range(len(animal_V))]
        subject = subject_of(names, graph, seed)
        state, rows = load(subject, []), list[Decision]()
        for count in range(1 + (most if way == "exreid" else 0)):
            question = next_question(state, "person") if way == "exreid" else None
            if count % step == 0 or question is None:
                asked.append(count)
                found.append(quality(animal_V, state.result.doubts.group_V))
            stopped = question is None
            if question is None:
                break
            same = answer(subject.place[question.first], subject.place[question.second])
            when = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=count)).isoformat()
            verdict: Verdict = "same" if same else "different"
            rows.append(decided(question, verdict, who="person", when=when, seconds=3.0))
            state = load(subject, rows, state)
        audit = state.audit.animals if state.audit else None
    animals = len(np.unique(animal_V))
    return Course(
        len(animal_V), animals, np.array(asked), np.array(found), stopped and way == "exreid", audit
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
        quality_R4 = np.array(
            [
                run.quality_T4[np.searchsorted(run.asked_T, budget * run.visits / 100, "right") - 1]
                for run in courses
            ]
        )
        for place, name in enumerate(("ARI", "pairwise precision", "pairwise recall")):
            value, interval = mean_and_interval(quality_R4[:, place])
            report.add(f"{way}, {budget}: {name}", value, "", interval=interval)
        value, interval = mean_and_interval(np.abs(quality_R4[:, 3]))
        report.add(f"{way}, {budget}: error of the count", value, "animals", interval=interval)
    if way == "no person":
        return
    reached = []
    for run in courses:
        there = np.flatnonzero(run.quality_T4[:, 0] >= GOAL)
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
        value, interval = mean_and_interval(np.array([run.quality_T4[-1, 0] for run in ended]))
        report.add(f"{way}: ARI when done", value, "", interval=interval)
    audited = [(run.audit, run.animals) for run in courses if run.audit]
    if audited:
        inside = [audit.low <= animals <= audit.high for audit, animals in audited]
        wide = np.array([audit.high - audit.low for audit, _ in audited])
        report.add(f"{way}: runs with an audit", len(audited), "")
        report.add(f"{way}: audit intervals with the true count", 100 * float(np.mean(inside)), "%")
        report.add(
            f"{way}: width of the audit's interval, median", float(np.median(wide)), "animals"
        )


def main() -> None:
    """Measure, and print the table."""
    options = arguments()
    runs, most = (3, 20) if options.quick else (options.runs, options.most)
    visits = scored_visits(options)
    person = Person(options.right, most, options.every)
    report = Report(
        f"Review of half of {len(visits.animal_V)} visits of {visits.animal_V.max() + 1} animals, "
        f"{runs} runs"
    )
    budgets = [
        budget for budget in (0, 5, 10, 20, 50, 100, 200, 300, 400, 600, 900) if budget <= most
    ]
    with ProcessPoolExecutor(options.workers) as pool:
        for way in [options.only] if options.only else WAYS:
            one = partial(course, visits, way, person)
            add_way(report, way, list(pool.map(one, range(runs))), budgets)
    report.show(options.json)


if __name__ == "__main__":
    main()
