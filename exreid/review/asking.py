"""One question after the other: which, why, and when there are no more.

`state.load` computes the state from the scores and the rows of decisions; `next_question` asks;
`decided` makes the row of an answer, for `decisions.append_decision`. Then load again.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from exreid.review.audit import draw
from exreid.review.belief import log_odds
from exreid.review.decisions import Decision, Purpose, Verdict
from exreid.review.people import reliability
from exreid.review.questions import (
    LEAST_DOUBT,
    MOST_ASKED,
    contradiction,
    most_worth,
    same_chance,
)
from exreid.review.state import SIGN, State, agrees, audit_votes, wrong_decisions

AUDIT_EVERY = 5
REPEAT_EVERY, REPEAT_TURN = 20, 10


@dataclass(frozen=True)
class Question:
    """Do these two visits show one animal?"""

    first: str
    second: str
    purpose: Purpose
    probability: float
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
        answer = float(log_odds(state.people.get(who, reliability(0, 0)).value))
        least = LEAST_DOUBT if audited or state.audit is None else 0.0
        queue = state.queue
        pair = most_worth(queue.graph, queue.doubts, queue.votes, answer=answer, least=least)
    if pair is None and audited:
        return None
    turn = len([r for r in state.decisions if r.who == who and r.purpose not in ("check", "")])
    again = _once_answered(state, who) if turn % REPEAT_EVERY == REPEAT_TURN else None
    if again is not None:
        return _question(state, again, "repeat")
    if pair is None or turn % AUDIT_EVERY == AUDIT_EVERY - 1:
        return _audit_question(state, who)
    return _question(state, pair, "queue")


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
