"""The state of a review: all that follows from the scores and the rows of decisions.

The answers of the audit do not go into the partition that the queue asks about and that the audit
estimates the mistakes of (``queue``); they do go into the one that is given out (``result``).

Letters: V visits, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from exreid.errors import ReviewError
from exreid.review.audit import LEAST_DRAWN, AuditResult, design, estimates, frame_of
from exreid.review.belief import PairGraph, Votes, votes_of
from exreid.review.decisions import Decision, standing
from exreid.review.doubts import Doubts, doubts_of
from exreid.review.partition import find_partition
from exreid.review.people import PersonReliability, person_reliability

WIDE_SHARE = 0.1
SIGN: dict[str, int] = {"same": 1, "different": -1, "can't tell": 0}


@dataclass(frozen=True, eq=False)
class Subject:
    """What is reviewed."""

    visits: tuple[str, ...]
    """Their names, rising."""
    graph: PairGraph
    """Of the scores alone."""
    start: Doubts
    """The partition of the scores alone."""
    design_P: np.ndarray
    """The probability of each listed pair in a draw of the audit."""
    seed: int

    @cached_property
    def place(self) -> dict[str, int]:
        """The index of each visit."""
        return {name: v for v, name in enumerate(self.visits)}


@dataclass(frozen=True, eq=False)
class Belief:
    """A graph with answers, and the partition that follows."""

    graph: PairGraph
    votes: Votes
    doubts: Doubts


@dataclass(frozen=True, eq=False)
class State:
    """Everything that follows from the decisions so far."""

    subject: Subject
    decisions: tuple[Decision, ...]
    """Those that count."""
    people: dict[str, PersonReliability]
    queue: Belief
    """Without the answers of the audit."""
    audit: AuditResult | None
    near_V: np.ndarray
    """Where the search for the result begins."""

    @cached_property
    def result(self) -> Belief:
        """With all answers."""
        if all(row.purpose not in ("audit", "check") for row in self.decisions):
            return self.queue
        return _belief(self.subject, self.decisions, self.people, self.near_V)

    @property
    def animals(self) -> int:
        """The number of animals of the result."""
        return int(self.result.doubts.group_V.max()) + 1


def subject_of(visits: Sequence[str], graph: PairGraph, seed: int = 0) -> Subject:
    """ReviewError for visits without rising, different names, and where no pair was scored."""
    names = tuple(visits)
    if len(names) != graph.visits or any(a >= b for a, b in pairwise(names)):
        raise ReviewError("a review needs visits with different names, in the order of the names.")
    if len(graph.pair_P2) == 0:
        raise ReviewError("no two visits were scored: there is nothing to review.")
    start = doubts_of(graph, find_partition(graph))
    return Subject(names, graph, start, design(frame_of(graph, start)), seed)


def load(subject: Subject, decisions: Sequence[Decision], before: State | None = None) -> State:
    """The state after these decisions, in whatever order they are; ReviewError for one about a
    visit that the subject lacks. ``before``: an earlier state; its partitions are the start."""
    rows = standing(decisions)
    for row in rows:
        for name in (row.first, row.second):
            if name and name not in subject.place:
                raise ReviewError(
                    f"a decision of {row.who} at {row.when} is about the visit {name!r}, which is "
                    "not among those reviewed: is it a file of another review, or did a "
                    "spreadsheet change the name, as it does with 2:35?"
                )
    people = {who: _reliability(rows, who) for who in sorted({row.who for row in rows})}
    start = subject.start.group_V
    queue_rows = [row for row in rows if row.purpose in ("queue", "repeat")]
    queue = _belief(subject, queue_rows, people, before.queue.doubts.group_V if before else start)
    audit = _audit(subject, rows, queue)
    return State(subject, rows, people, queue, audit, queue.doubts.group_V)


def wrong_decisions(state: State) -> float:
    """The expected number of wrong decisions. Where the answers went against the probabilities that
    were shown more often than those say, people's slips included, it is as many times higher."""
    surprises = expected = 0.0
    for row in state.decisions:
        if row.purpose in ("queue", "audit") and row.probability is not None and SIGN[row.verdict]:
            less = min(row.probability, 1 - row.probability)
            right = state.people[row.who].value
            expected += less * right + (1 - less) * (1 - right)
            surprises += (row.verdict == "same") != (row.probability >= 0.5)
    return state.result.doubts.wrong_decisions * max(1.0, (1 + surprises) / (1 + expected))


def agrees(state: State, wrong: float = 1.0) -> bool:
    """Whether the audit confirms the groups: no more of its pairs than expected are against them,
    and its interval has their number and is narrow. It ends no further than ``wrong`` animals from
    its middle on either side, or a tenth of the animals where that is more."""
    audit = state.audit
    if audit is None or audit.surprises:
        return False
    width = audit.animals.high - audit.animals.low
    if width > 2 * max(wrong, WIDE_SHARE * state.animals):
        return False
    return audit.animals.low <= state.animals <= audit.animals.high


def _belief(
    subject: Subject,
    rows: Sequence[Decision],
    people: dict[str, PersonReliability],
    near_V: np.ndarray,
) -> Belief:
    rows = [row for row in rows if row.verdict in SIGN]
    place = subject.place
    votes = votes_of(
        np.array([(place[row.first], place[row.second]) for row in rows], np.int64).reshape(-1, 2),
        np.array([SIGN[row.verdict] for row in rows], np.int64),
        np.array([people[row.who].value for row in rows], np.float64),
    )
    said = votes.said_N > 0
    graph = subject.graph
    if said.any():
        graph = graph.plus(votes.pair_N2[said], votes.evidence_N[said])
    return Belief(graph, votes, doubts_of(graph, find_partition(graph, near_V)))


def _reliability(rows: Sequence[Decision], who: str) -> PersonReliability:
    first: dict[tuple[str, str], str] = {}
    alike = twice = 0
    for row in rows:
        if row.who != who or SIGN.get(row.verdict, 0) == 0:
            continue
        earlier = first.setdefault((row.first, row.second), row.verdict)
        if row.purpose == "repeat":
            twice += 1
            alike += earlier == row.verdict
    return person_reliability(alike, twice)


def audit_votes(
    rows: Sequence[Decision], place: dict[str, int]
) -> dict[tuple[int, int], list[int]]:
    """The signs of the audit's answers about each of its pairs, in their order."""
    signs: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        if row.purpose in ("audit", "check"):
            signs.setdefault((place[row.first], place[row.second]), []).append(SIGN[row.verdict])
    return signs


def _audit(subject: Subject, rows: Sequence[Decision], queue: Belief) -> AuditResult | None:
    """The estimates, of the pairs that were asked about."""
    place = subject.place
    signs = audit_votes(rows, place)
    pairs, drawn, said = [], [], []
    for row in rows:
        pair = (place[row.first], place.get(row.second, -1))
        if row.purpose == "audit" and row.drawn is not None:
            lead = sum(signs[pair])
            if lead or not any(signs[pair]):  # an undecided pair waits for another answer
                pairs.append(pair)
                drawn.append(row.drawn)
                said.append(int(np.sign(lead)))
    if len(pairs) < LEAST_DRAWN:
        return None
    pair_N2 = np.array(pairs, np.int64).reshape(-1, 2)
    # An earlier review may have drawn pairs whose flanks were not known then.
    kept_N = subject.graph.comparable(pair_N2)
    row_N = subject.graph.place(pair_N2[kept_N])
    if np.any(row_N < 0):
        raise ReviewError("an audit pair is not listed in this review: a file of another one?")
    frame = frame_of(subject.graph, queue.doubts)
    return estimates(
        frame,
        subject.design_P,
        row_N=row_N,
        drawn_N=np.array(drawn)[kept_N],
        said_N=np.array(said)[kept_N],
        doubts=queue.doubts,
    )
