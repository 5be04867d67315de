"""One question after the other: which, why, and when there are no more.

`state.load` computes the state from the scores and the rows of decisions; `next_question` or, where
every visit is to be seen, `next_confirmation` asks; `decided` makes the row of an answer, for
`decisions.append_decision`. Then load again.

Letters: V visits, P listed pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from exreid.review.audit import draw
from exreid.review.belief import log_odds
from exreid.review.decisions import Decision, Purpose, Verdict
from exreid.review.doubts import (
    LEAST_DOUBT,
    MOST_ASKED,
    contradiction,
    most_worth,
    pair_to_show,
    same_chance,
    weakest_link,
)
from exreid.review.people import person_reliability
from exreid.review.state import (
    SIGN,
    WIDE_SHARE,
    Belief,
    State,
    agrees,
    audit_votes,
    wrong_decisions,
)

AUDIT_EVERY, EARLY_EVERY = 5, 10
REPEAT_EVERY, REPEAT_TURN = 20, 10
LEAST_CHANCE, LEAST_IN_SEVERAL = 0.1, 0.01
"""A visit that is to be seen is not compared with a less probable animal, after the first one; a
gallery's names are not asked about where less speaks against them."""


@dataclass(frozen=True)
class Question:
    """Do these two visits show one animal?"""

    first: str
    second: str
    purpose: Purpose
    probability: float | None
    """None where there is none."""
    drawn: float | None


def next_question(state: State, who: str, wrong: float = 1.0) -> Question | None:
    """The next question for a person. None when the review is done: no answer is contradicted, the
    audit agrees, and fewer than ``wrong`` decisions are expected to be wrong, or nothing that could
    be asked would change that. Where the audit does not confirm the groups, no probability is too
    sure to be asked about."""
    pair = _unclear_audit_pair(state)
    if pair is not None:
        return _question(state, pair, "check")
    pair = contradiction(state.queue.doubts, state.queue.votes)
    audited = agrees(state, wrong)
    if pair is None and not (audited and wrong_decisions(state) < wrong):
        answer = float(log_odds(state.people.get(who, person_reliability(0, 0)).value))
        least = LEAST_DOUBT if audited or state.audit is None else 0.0
        queue = state.queue
        pair = most_worth(queue.graph, queue.doubts, queue.votes, answer=answer, least=least)
    if pair is None and audited:
        return None
    turn = len([r for r in state.decisions if r.who == who and r.purpose not in ("check", "")])
    again = _once_answered(state, who) if turn % REPEAT_EVERY == REPEAT_TURN else None
    if again is not None:
        return _question(state, again, "repeat")
    every = EARLY_EVERY if is_early(state.queue) else AUDIT_EVERY
    if pair is None or turn % every == every - 1:
        return _audit_question(state, who)
    return _question(state, pair, "queue")


def is_early(queue: Belief) -> bool:
    """Whether so many decisions are expected to be wrong that no audit would confirm the groups. It
    goes by the answers of the queue alone, so it makes no audit look better or worse."""
    groups = int(queue.doubts.group_V.max(initial=0)) + 1
    return queue.doubts.wrong_decisions > WIDE_SHARE * groups


def next_confirmation(
    state: State, who: str, known_V: np.ndarray, order: Sequence[int]
) -> Question | None:
    """The next question where each visit is to be seen: is it one of the known animals?

    ``known_V``: bool, which of the visits are known animals, ``order``: the others, as they are to
    be asked about. Each is compared with its most probable animal, then with others while that is
    probable enough (`LEAST_CHANCE`), until a person has said *same* or *can't tell*; a new animal
    with its most probable known one at least. As everything is seen, there is no audit. None when
    no answer is contradicted and nothing is left.
    """
    pair = contradiction(state.queue.doubts, state.queue.votes)
    if pair is None:
        pair = _unconfirmed(state, known_V, order)
    return None if pair is None else _ordinary(state, who, pair)


def next_doubt(state: State, who: str, several: Collection[int]) -> Question | None:
    """The next question about names that are there already: the doubtful ones alone, so without an
    audit. None when no answer is contradicted and no change of the groups has a probability of
    `LEAST_CHANCE`. ``several``: groups that answers have made of several names; their own links
    are asked about down to `LEAST_IN_SEVERAL`, or a visit with a wrong name would join two animals.
    """
    queue = state.queue
    pair = contradiction(queue.doubts, queue.votes)
    if pair is None and several:
        pair = weakest_link(queue.graph, queue.doubts, queue.votes, several, LEAST_IN_SEVERAL)
    if pair is None:
        answer = float(log_odds(state.people.get(who, person_reliability(0, 0)).value))
        pair = most_worth(queue.graph, queue.doubts, queue.votes, answer=answer, least=LEAST_CHANCE)
    return None if pair is None else _ordinary(state, who, pair)


def next_of_groups(state: State, one: int, other: int) -> Question | None:
    """Whether these two groups of the result are one animal; None where no photographs can tell."""
    sides = (np.flatnonzero(state.result.doubts.group_V == group) for group in (one, other))
    pair = pair_to_show(state.result.graph, state.result.votes, *sides)
    return None if pair is None else _question(state, pair, "queue")


def _ordinary(state: State, who: str, pair: tuple[int, int]) -> Question:
    """The question about a pair, or one that the person answered before."""
    turn = len([row for row in state.decisions if row.who == who and row.verdict in SIGN])
    again = _once_answered(state, who) if turn % REPEAT_EVERY == REPEAT_TURN else None
    return _question(state, again, "repeat") if again else _question(state, pair, "queue")


def linked(state: State, known_V: np.ndarray) -> np.ndarray:
    """Which visits people's answers join to a known animal, bool (V,)."""
    part_V = _joined(state)
    return np.asarray(np.isin(part_V, part_V[known_V]))


def _joined(state: State) -> np.ndarray:
    """A code for each visit, the same for those that answers join, int64 (V,)."""
    votes, group_V = state.queue.votes, state.queue.doubts.group_V
    pair_N2 = votes.pair_N2[votes.lead_N > 0]
    pair_N2 = pair_N2[group_V[pair_N2[:, 0]] == group_V[pair_N2[:, 1]]]
    links = coo_matrix((np.ones(len(pair_N2)), tuple(pair_N2.T)), (len(group_V), len(group_V)))
    return np.asarray(connected_components(links, directed=False)[1])


def untold(state: State) -> np.ndarray:
    """Which visits were only answered with *can't tell* in some pair, bool (V,)."""
    votes = state.queue.votes
    found_V = np.zeros(len(state.subject.visits), bool)
    found_V[votes.pair_N2[(votes.said_N == 0) & (votes.count_N > 0)].ravel()] = True
    return found_V


def _unconfirmed(state: State, known_V: np.ndarray, order: Sequence[int]) -> tuple[int, int] | None:
    queue, pair_P2 = state.queue, state.subject.graph.pair_P2
    done_V = linked(state, known_V) | untold(state)
    count_P, _ = queue.votes.asked(pair_P2)
    between_P = ~known_V[pair_P2].all(axis=1)
    known_P = between_P & known_V[pair_P2].any(axis=1)
    part_V = _joined(state)
    compared = set(part_V[pair_P2[known_P & (count_P > 0)]].ravel().tolist())
    for visit in order:
        if done_V[visit]:
            continue
        own = np.flatnonzero(between_P & (pair_P2 == visit).any(axis=1))
        new = own[count_P[own] == 0]
        if len(new) == 0:
            continue
        chances = np.array(
            [same_chance(queue.graph, queue.doubts, *pair_P2[row].tolist()) for row in new]
        )
        # No animal is new before it was beside its most probable known one.
        if chances.max() < LEAST_CHANCE and len(new) < len(own):
            if int(part_V[visit]) in compared or not known_P[new].any():
                continue
            chances[~known_P[new]] = -1.0
        first, second = pair_P2[new[np.argmax(chances)]].tolist()
        return first, second
    return None


def decided(
    question: Question, verdict: Verdict, *, who: str, when: str, seconds: float
) -> Decision:
    """The row of an answer."""
    return Decision(
        question.first,
        question.second,
        verdict,
        "",
        who,
        when,
        seconds,
        question.probability,
        question.purpose,
        question.drawn,
    )


def _unclear_audit_pair(state: State) -> tuple[int, int] | None:
    """An audit pair whose answer is against the partition of the queue, and not confirmed: one slip
    would count as a wrong decision."""
    place = state.subject.place
    group_V = state.queue.doubts.group_V
    for (first, second), signs in audit_votes(state.decisions, place).items():
        said, lead = sum(abs(sign) for sign in signs), sum(signs)
        against = (lead > 0) != (group_V[first] == group_V[second])
        if 0 < said < MOST_ASKED and abs(lead) < 2 and (lead == 0 or against):
            return first, second
    return None


def _audit_question(state: State, who: str) -> Question:
    index = len([1 for row in state.decisions if row.purpose == "audit" and row.who == who])
    design_P = state.subject.design_P
    row = draw(design_P, [state.subject.seed, zlib.crc32(who.encode()), index])
    first, second = state.subject.graph.pair_P2[row].tolist()
    return _question(state, (first, second), "audit", float(design_P[row]))


def _once_answered(state: State, who: str) -> tuple[int, int] | None:
    """A pair of the queue that the person answered once, the one answered longest ago."""
    place = state.subject.place
    times: dict[tuple[str, str], int] = {}
    for row in state.decisions:
        if row.who == who and SIGN.get(row.verdict, 0):
            times[row.first, row.second] = times.get((row.first, row.second), 0) + 1
    for row in state.decisions:
        asked_once = times.get((row.first, row.second)) == 1
        if row.who == who and row.purpose == "queue" and asked_once:
            return place[row.first], place[row.second]
    return None


def _question(
    state: State, pair: tuple[int, int], purpose: Purpose, drawn: float | None = None
) -> Question:
    first, second = sorted(pair)
    names, belief = state.subject.visits, state.queue
    probability = same_chance(belief.graph, belief.doubts, first, second)
    return Question(names[first], names[second], purpose, probability, drawn)
