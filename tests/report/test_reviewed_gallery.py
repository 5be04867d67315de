"""Doubtful names of a gallery are asked about first, and its names follow the answers."""

import json
import re
from itertools import combinations

import pandas as pd
import pytest

from exreid.report.review_sources import read_review
from exreid.report.reviewed import NameQuestion

TRUE = {f"{animal}{number}": animal for animal in "ABCDE" for number in range(4)}
WRONG = {"A3": "Z", "A2": "Z", "B0": "C"}
"""Two names for A; a visit of B is called C."""


def _reviewed(folder, wrong):
    """A gallery's review: visits of one animal match in a chain, others hardly."""
    names = TRUE | wrong
    rows = [
        {"image_id": f"{visit}.jpg", "path": f"{visit}.jpg", "encounter": visit, "root": None}
        for visit in TRUE
    ]
    frame = pd.DataFrame(rows).assign(identity=list(names.values()))
    frame.to_parquet(folder / "photos.parquet")
    frame[["image_id", "encounter", "identity"]].to_parquet(folder / "animals.parquet")
    pairs = [
        (a, b, f"{a}.jpg", f"{b}.jpg", 0.97 if TRUE[a] == TRUE[b] else 0.01)
        for a, b in combinations(TRUE, 2)
        if TRUE[a] != TRUE[b] or int(b[1]) - int(a[1]) == 1
    ]
    columns = ["first_encounter", "second_encounter", "first_id", "second_id", "probability"]
    pd.DataFrame(pairs, columns=columns).to_parquet(folder / "pairs.parquet")
    source = {"gallery": "g", "fingerprint": "f", "written": "2026-05-01T12:00:00+00:00"}
    (folder / "review.json").write_text(json.dumps(source))
    return read_review(folder)


def _answered(run, least=0):
    state, asked = run.state(), []
    while (question := run.question(state, "Ada")) is not None:
        if isinstance(question, NameQuestion):
            name = (question.names or (question.offered,))[0]
            run.name(state, question, name, who="Ada", seconds=1)
        else:
            same = TRUE[question.first] == TRUE[question.second]
            asked.append({question.first, question.second})
            run.answer(question, "same" if same else "different", who="Ada", seconds=1)
        state = run.state(state)
        assert len(asked) < 40
    return state, asked


def test_the_wrong_names_are_found_by_few_questions(tmp_path):
    run = _reviewed(tmp_path, WRONG)
    state, asked = _answered(run)
    assert {"B0", "B1"} in asked[:2]
    assert {"A1", "A2"} in asked
    assert len(asked) < 15
    given = run.confirmed(state)
    final = {visit: given.get(visit, name) for visit, name in (TRUE | WRONG).items()}
    parts = pd.Series(final).groupby(pd.Series(TRUE)).nunique()
    assert parts.tolist() == [1] * 5
    assert pd.Series(final).nunique() == 5
    assert final["B0"] == "B"


def test_right_names_are_left_alone(tmp_path):
    state, asked = _answered(_reviewed(tmp_path, {}))
    assert asked == []
    assert state.animals == 5


def test_one_name_of_two_animals_is_parted_where_nothing_links_them(tmp_path):
    wrong = {visit: "A" for visit, name in TRUE.items() if name == "E"}
    run = _reviewed(tmp_path, wrong)
    state, _ = _answered(run)
    given = run.confirmed(state)
    of_e = {given[visit] for visit in TRUE if TRUE[visit] == "E"}
    of_a = {given.get(visit, "A") for visit in TRUE if TRUE[visit] == "A"}
    assert len(of_e) == len(of_a) == 1
    assert of_e != of_a


def test_names_of_an_earlier_review_do_not_count_after_the_gallery_has_changed(tmp_path):
    _answered(_reviewed(tmp_path, WRONG))
    source = json.loads((tmp_path / "review.json").read_text())
    source["written"] = "2999-01-01T00:00:00+00:00"
    (tmp_path / "review.json").write_text(json.dumps(source))
    rows = read_review(tmp_path).state().decisions
    assert rows
    assert all(row.verdict != "name" for row in rows)


@pytest.mark.parametrize("visit", ["B0", "A2"])
def test_answers_about_visits_that_are_gone_are_left_out(tmp_path, visit):
    run = _reviewed(tmp_path, WRONG)
    _answered(run)
    text = run.decisions.read_text()
    run.decisions.write_text(re.sub(rf"\b{visit}\b", f"{visit}gone", text))
    assert all(visit not in (row.first, row.second) for row in run.state().decisions)


def test_a_visit_with_a_wrong_name_does_not_join_two_animals(tmp_path):
    """It matches its own animal, and the animal that it is named after only weakly."""
    run = _reviewed(tmp_path, {"B0": "C"})
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    weak = (pairs["first_encounter"] == "B0") & pairs["second_encounter"].str.startswith("C")
    pairs.loc[weak, "probability"] = 0.3
    pairs.to_parquet(tmp_path / "pairs.parquet")
    run = read_review(tmp_path)
    state, _ = _answered(run)
    given = run.confirmed(state)
    assert {given.get(f"B{n}", "B") for n in range(4)} == {"B"}
    assert {given.get(f"C{n}", "C") for n in range(4)} == {"C"}
