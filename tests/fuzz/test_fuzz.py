"""200 mutated inputs, in a quarter of a minute on two quiet cores; `make fuzz` tries more."""

import pytest

from tests.fuzz.runner import plan, run

CASES = 200
DEADLINE_S = 480
"""A busy machine tries fewer; which ones does not depend on it, since they come in one order."""


@pytest.mark.timeout(900)
def test_every_entry_point_ends_in_words_adds_up_and_never_answers_otherwise_in_silence():
    report = run(plan(CASES), deadline_s=DEADLINE_S)
    assert not report.faults, report.text()
    assert sum(report.cases.values()) >= CASES / 5, report.text()
