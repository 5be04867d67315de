"""What an identification proposes, read for a review."""

import pandas as pd
import pytest

from exreid.report.reviewed_identification import read_identification, read_proposals
from exreid.review.asking import Question

PHOTOS = {"a1": "a", "a2": "a", "b1": "b", "c1": None}
"""The encounter of each photograph."""


@pytest.fixture
def folder(tmp_path):
    """Visit a: 60% and 20% for Zita, its encounter says 90%; b and c are new, 70% one animal."""
    rows = [
        {"image_id": name, "side": "query", "root": "r", "path": f"{name}.jpg", "encounter": visit}
        for name, visit in PHOTOS.items()
    ]
    rows += [
        {"image_id": f"{name}.jpg", "side": "gallery", "root": "g", "path": name, "identity": name}
        for name in ("Zita", "Bo")
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "photos.parquet")
    told = {"a1": (0.6, 0.3), "a2": (0.2, 0.4), "b1": (0.05, 0.02), "c1": (0.04, 0.01)}
    answers = [
        {
            "query_id": photo,
            "identity": name,
            "best_gallery_id": f"{name}.jpg",
            "score": chance,
            "probability": chance,
            "rank": rank,
        }
        for photo, chances in told.items()
        for rank, (name, chance) in enumerate(zip(("Zita", "Bo"), chances, strict=True), 1)
    ]
    pd.DataFrame(answers).to_parquet(tmp_path / "answers.parquet")
    encounters = {"encounter": ["a"], "leader": ["Zita"], "known_probability": [0.9]}
    pd.DataFrame(encounters).to_parquet(tmp_path / "encounters.parquet")
    new = {"query_id": ["b1", "c1"], "group": [1, 2]}
    pd.DataFrame(new).to_parquet(tmp_path / "new_animals.parquet")
    pairs = {"first_id": ["b1"], "second_id": ["c1"], "probability": [0.7]}
    pd.DataFrame(pairs).to_parquet(tmp_path / "new_pairs.parquet")
    return tmp_path


def test_a_visits_probabilities_are_its_encounters_or_the_mean_of_its_photographs(folder):
    found = read_proposals(folder).candidates.set_index(["first", "second"])["probability"]
    chance = {(visit, node.removeprefix("known animal: ")): p for (visit, node), p in found.items()}
    assert chance["a", "Zita"] == pytest.approx(0.9)
    # By hand: the mean of 0.3 and 0.4, times what the encounter leaves, 0.1 of 1 - 0.4.
    assert chance["a", "Bo"] == pytest.approx(0.35 * 0.1 / 0.6)
    assert chance["b", "Zita"] == pytest.approx(0.05)
    assert chance["c1", "Bo"] == pytest.approx(0.01)


def test_the_best_photographs_and_the_new_visits_are_compared(folder):
    run = read_identification(folder, wrong=1.0)
    first, second = run.best["a", "known animal: Zita"]
    assert run.photos["image_id"].iloc[[first, second]].tolist() == ["a1", "Zita.jpg"]
    question = run.question(run.state(), "Ada")
    assert {question.first, question.second} == {"a", "known animal: Zita"}
    run.answer(question, "same", who="Ada", seconds=1)
    question = run.question(run.state(), "Ada")
    assert {question.first, question.second} == {"b", "c1"}
    run.answer(question, "different", who="Ada", seconds=1)
    # Nothing else has 10%; but no animal is new before it was beside a known one.
    for visit in ("b", "c1"):
        question = run.question(run.state(), "Ada")
        assert {question.first, question.second} == {visit, "known animal: Zita"}
        run.answer(question, "different", who="Ada", seconds=1)
    assert run.question(run.state(), "Ada").visits == ("b",)
    assert run.confirmed(run.state()) == {"a": "Zita"}


def test_a_name_of_another_animal_of_the_review_asks_whether_both_are_one(folder):
    pairs = {"first_id": ["b1"], "second_id": ["c1"], "probability": [0.02]}
    pd.DataFrame(pairs).to_parquet(folder / "new_pairs.parquet")
    run = read_identification(folder, wrong=1.0)
    while isinstance(question := run.question(run.state(), "Ada"), Question):
        verdict = "same" if "a" in {question.first, question.second} else "different"
        run.answer(question, verdict, who="Ada", seconds=1)
    assert run.whether_one(run.state(), question, "Nell") is None
    run.name(run.state(), question, "Nell", who="Ada", seconds=1)
    question = run.question(run.state(), "Ada")
    assert question.visits == ("c1",)
    for name, other in ((" nell", "b"), ("Bo", "known animal: Bo")):
        asked = run.whether_one(run.state(), question, name)
        assert {asked.first, asked.second} == {"c1", other}
    run.answer(run.whether_one(run.state(), question, "Nell"), "same", who="Ada", seconds=1)
    while (question := run.question(run.state(), "Ada")) is not None:
        assert {question.first, question.second} == {"b", "c1"}  # once more, as it was improbable
        run.answer(question, "same", who="Ada", seconds=1)
    assert run.confirmed(run.state()) == {"a": "Zita", "b": "Nell", "c1": "Nell"}


def test_a_run_of_an_earlier_version_has_its_groups_alone(folder):
    (folder / "new_pairs.parquet").unlink()
    pd.DataFrame({"query_id": ["b1", "c1"], "group": [1, 1]}).to_parquet(
        folder / "new_animals.parquet"
    )
    new = read_proposals(folder).new
    assert new[["first", "second", "grouped"]].to_numpy().tolist() == [["b", "c1", True]]
