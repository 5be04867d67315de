"""A whole review in text: questions, answers, a file between, until it says that it is done."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from exreid.errors import ReviewError
from exreid.metrics.grouping import adjusted_rand_index
from exreid.metrics.uncertainty import Estimate
from exreid.review.asking import Question, decided, is_early, next_question
from exreid.review.audit import AuditResult
from exreid.review.belief import pair_graph
from exreid.review.decisions import append_decision, read_decisions
from exreid.review.state import State, Subject, agrees, load, subject_of, wrong_decisions

ANIMAL_V = np.repeat(np.arange(8), [6, 5, 5, 4, 3, 2, 2, 1])
NAMES = tuple(f"visit {v:02d}" for v in range(len(ANIMAL_V)))
START = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Scores that are right for most pairs, and calibrated: each pair's answer is drawn from its
    probability."""
    rng = np.random.default_rng(3)
    pairs = np.array(list(combinations(range(len(NAMES)), 2)), np.int64)
    same = ANIMAL_V[pairs[:, 0]] == ANIMAL_V[pairs[:, 1]]
    score = rng.normal(np.where(same, 1.3, -1.3), 1.0)
    odds = np.log(same.mean() / (1 - same.mean())) + 2.6 * score
    return subject_of(NAMES, pair_graph(len(NAMES), pairs, 1 / (1 + np.exp(-odds)), unlisted=0.01))


def _truth(question: Question) -> bool:
    first, second = NAMES.index(question.first), NAMES.index(question.second)
    return bool(ANIMAL_V[first] == ANIMAL_V[second])


def _review(
    subject: Subject, file: Path, *, right: float, seed: int, most: int = 400, who: str = "Ann"
) -> tuple[State, list[str], bool]:
    """Answer until it is done; the state, the purposes of the questions, whether it ended."""
    rng = np.random.default_rng(seed)
    state = load(subject, read_decisions(file).decisions)
    purposes: list[str] = []
    for number in range(most):
        question = next_question(state, who)
        if question is None:
            return state, purposes, True
        purposes.append(question.purpose)
        same = _truth(question) == (rng.random() < right)
        when = (START + timedelta(seconds=number)).isoformat()
        verdict = "same" if same else "different"
        append_decision(file, decided(question, verdict, who=who, when=when, seconds=2.0))
        state = load(subject, read_decisions(file).decisions, state)
    return state, purposes, False


def test_a_person_without_a_mistake_is_led_to_the_truth_and_told_when_it_is_done(subject, tmp_path):
    before = adjusted_rand_index(ANIMAL_V, subject.start.group_V)
    state, purposes, ended = _review(subject, tmp_path / "d.csv", right=1.0, seed=0)
    assert ended
    assert before < 0.99
    assert adjusted_rand_index(ANIMAL_V, state.result.doubts.group_V) >= 0.99
    assert state.audit is not None
    assert state.audit.animals.low <= 8 <= state.audit.animals.high
    assert wrong_decisions(state) < 1
    asked = [purpose for purpose in purposes if purpose != "check"]
    assert asked.count("audit") >= len(asked) // 5


def test_a_person_right_in_97_of_100_answers_is_led_there_too(subject, tmp_path):
    state, *_ = _review(subject, tmp_path / "d.csv", right=0.97, seed=4, most=100)
    assert adjusted_rand_index(ANIMAL_V, state.result.doubts.group_V) >= 0.97


def test_closed_and_opened_again_the_review_is_where_it_was(subject, tmp_path):
    state, *_ = _review(subject, tmp_path / "d.csv", right=0.97, seed=1, most=30)
    again = load(subject, read_decisions(tmp_path / "d.csv").decisions, state)
    assert np.array_equal(again.result.doubts.group_V, state.result.doubts.group_V)
    assert next_question(again, "Ann") == next_question(state, "Ann")


def test_an_undo_gives_the_state_before(subject, tmp_path):
    file = tmp_path / "d.csv"
    _review(subject, file, right=1.0, seed=0, most=12)
    rows = read_decisions(file).decisions
    undo = replace(
        rows[-1],
        verdict="undo",
        when=(START + timedelta(hours=1)).isoformat(),
        purpose="",
        drawn=None,
    )
    before, after = load(subject, rows[:-1]), load(subject, [*rows, undo])
    assert after.decisions == before.decisions
    assert np.array_equal(after.result.doubts.group_V, before.result.doubts.group_V)
    assert next_question(after, "Ann") == next_question(before, "Ann")


def test_the_audit_is_drawn_alike_whatever_the_queue_asked_and_changes_no_question(subject):
    state = load(subject, [])
    rows, questions = [], []
    for number in range(20):
        question = next_question(state, "Ann", wrong=0.0)
        if question is None:
            break
        questions.append(question)
        when = (START + timedelta(seconds=number)).isoformat()
        verdict = "same" if _truth(question) else "different"
        rows.append(decided(question, verdict, who="Ann", when=when, seconds=1.0))
        state = load(subject, rows, state)
    audit = [q for q in questions if q.purpose == "audit"]
    assert len(audit) >= 3
    lied = [replace(row, verdict="can't tell") if row.purpose == "queue" else row for row in rows]
    others = load(subject, lied)
    assert not is_early(state.queue)
    assert next_question(load(subject, rows[:4]), "Ann").purpose == "audit"
    drawn = [(row.first, row.second) for row in others.decisions if row.purpose == "audit"]
    assert drawn == [(q.first, q.second) for q in audit]
    without = load(subject, [row for row in rows if row.purpose != "audit"])
    assert np.array_equal(without.queue.doubts.group_V, load(subject, rows).queue.doubts.group_V)
    assert all(q.drawn is not None for q in audit)


def test_two_peoples_rows_count_together_and_each_draws_an_audit_of_their_own(subject, tmp_path):
    ann, *_ = _review(subject, tmp_path / "a.csv", right=1.0, seed=0, most=20)
    bo, *_ = _review(subject, tmp_path / "b.csv", right=1.0, seed=0, most=20, who="Bo")
    both = load(subject, [*ann.decisions, *bo.decisions])
    assert len(both.decisions) == 40
    assert set(both.people) == {"Ann", "Bo"}
    pairs = {
        who: [(r.first, r.second) for r in both.decisions if r.who == who and r.purpose == "audit"]
        for who in ("Ann", "Bo")
    }
    assert pairs["Ann"] != pairs["Bo"]


def test_an_audit_with_a_wide_interval_or_against_the_groups_confirms_nothing(subject):
    state = load(subject, [])
    count = float(state.animals)

    def audited(low: float, high: float, against: int) -> State:
        middle = Estimate(count, low, high)
        return replace(state, audit=AuditResult(20, against, 0.1, middle, middle, middle, middle))

    assert not agrees(state)
    assert agrees(audited(count - 1, count + 1, 0))
    assert not agrees(audited(count - 2, count + 2, 0))
    assert agrees(audited(count - 2, count + 2, 0), wrong=2.0)
    assert not agrees(audited(count - 1, count + 1, 3))
    assert not agrees(audited(count + 0.5, count + 1, 0))


def test_answers_that_surprise_raise_the_number_of_decisions_that_are_expected_to_be_wrong(subject):
    rows = [
        decided(Question(a, b, "queue", 0.01, None), verdict, who="Ann", when=when, seconds=1.0)
        for a, b, verdict, when in (
            (NAMES[0], NAMES[20], "same", "2026-05-01T12:00:00+00:00"),
            (NAMES[0], NAMES[21], "same", "2026-05-01T12:00:01+00:00"),
        )
    ]
    surprised = load(subject, rows)
    expected = 2 * (0.01 * 0.97 + 0.99 * 0.03)
    assert wrong_decisions(surprised) == pytest.approx(
        surprised.result.doubts.wrong_decisions * 3 / (1 + expected)
    )
    usual = load(subject, [replace(row, verdict="different") for row in rows])
    assert wrong_decisions(usual) == usual.result.doubts.wrong_decisions


def test_a_decision_about_another_visit_is_an_error(subject):
    question = Question("visit 00", "visit 99", "queue", 0.5, None)
    row = decided(question, "same", who="Ann", when=START.isoformat(), seconds=1.0)
    with pytest.raises(ReviewError, match="'visit 99', which is not among"):
        load(subject, [row])


def test_visits_need_different_names_in_order(subject):
    with pytest.raises(ReviewError, match="order of the names"):
        subject_of(NAMES[::-1], subject.graph)


def test_without_a_scored_pair_there_is_nothing_to_review():
    graph = pair_graph(2, np.zeros((0, 2), np.int64), np.zeros(0), unlisted=0.01)
    with pytest.raises(ReviewError, match="no two visits were scored"):
        subject_of(("a", "b"), graph)


def test_while_much_is_wrong_one_question_in_ten_is_of_the_audit():
    """Scores that say little: many joins are expected to be missed."""
    pairs = np.array(list(combinations(range(30), 2)))
    names = [f"visit {v:02d}" for v in range(30)]
    subject = subject_of(names, pair_graph(30, pairs, np.full(len(pairs), 0.1), unlisted=0.01))
    state, rows, purposes = load(subject, []), [], []
    for number in range(30):
        assert is_early(state.queue)
        question = next_question(state, "Ann")
        purposes.append(question.purpose)
        when = (START + timedelta(seconds=number)).isoformat()
        rows.append(decided(question, "different", who="Ann", when=when, seconds=1.0))
        state = load(subject, rows, state)
    assert [n for n, purpose in enumerate(purposes) if purpose == "audit"] == [9, 19, 29]
