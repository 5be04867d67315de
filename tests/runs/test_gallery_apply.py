"""What people confirmed of an identification goes into the gallery, and comes out again."""

import re
import shutil

import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.gallery.opening import open_gallery
from exreid.report.review_page import told
from exreid.report.review_sources import read_review
from exreid.report.reviewed import NameQuestion
from exreid.review.asking import Question
from exreid.review.decisions import read_decisions
from exreid.runs.gallery_build import build_gallery
from exreid.runs.gallery_review import score_gallery
from tests.runs.conftest import CONFIG, STRANGER


@pytest.fixture
def world(identified, tmp_path):
    """A copy: the gallery and the run are changed."""
    for name in ("g", "identifications"):
        shutil.copytree(identified / name, tmp_path / name)
    return tmp_path


def _animal(visit):
    return re.search(r"lynx_\d+", visit)[0]


def _answer(run, person="Ada", most=1000):
    """Answer truly, up to so many questions; new animals are called Nora 1, ..."""
    state = run.state()
    for _ in range(most):
        question = run.question(state, person)
        if question is None:
            break
        if isinstance(question, NameQuestion):
            run.name(state, question, f"Nora {len(state.decisions)}", who=person, seconds=1)
        else:
            same = _animal(question.first) == _animal(question.second)
            run.answer(question, "same" if same else "different", who=person, seconds=1)
        state = run.state(state)
    return state


def _names(folder):
    rows = open_gallery(folder).table.rows
    return dict(zip(rows["image_id"], rows["identity"], strict=True))


def _gallery(world, *words):
    return main(["gallery", words[0], str(world / "g"), *map(str, words[1:]), "ray.num_actors=0"])


def test_confirmed_answers_go_in_and_an_undo_takes_them_out(world, capsys):
    before, fingerprint = _names(world / "g"), open_gallery(world / "g").fingerprint
    file = world / "identifications" / "i" / "decisions.csv"
    state = _answer(read_review(file.parent))
    assert _gallery(world, "apply", file) == 0
    after = _names(world / "g")
    new = {image: name for image, name in after.items() if image not in before}
    assert {i: n for i, n in after.items() if i in before} == before
    photos = read_review(file.parent).photos
    assert len(new) == (photos["side"] == "query").sum()
    for image, name in new.items():
        assert name.startswith("Nora") if _animal(image) == STRANGER else name == _animal(image)
    assert f"{len(state.subject.visits) - 3} visits" in told(read_review(file.parent), state)[0]
    assert _gallery(world, "apply", file) == 0
    assert "Nothing is new" in capsys.readouterr().out
    assert _names(world / "g") == after
    assert _gallery(world, "undo") == 0
    assert _names(world / "g") == before
    assert open_gallery(world / "g").fingerprint == fingerprint
    assert _gallery(world, "info") == 0
    said = capsys.readouterr().out
    assert f"{len(new)} photographs added by a review" in said
    assert "undone" in said


def test_what_nobody_confirmed_stays_out(world, capsys):
    file = world / "identifications" / "i" / "decisions.csv"
    before = _names(world / "g")
    assert _gallery(world, "apply", file) == 0  # questions without an answer
    assert "Nothing is new" in capsys.readouterr().out
    run = read_review(file.parent)
    state = run.state()
    question = run.question(state, "Ada")
    run.answer(question, "can't tell", who="Ada", seconds=1)
    assert run.confirmed(run.state(state)) == {}
    assert _names(world / "g") == before


def test_a_name_for_two_animals_is_refused(world, capsys):
    folder = world / "identifications" / "i"
    _answer(read_review(folder))
    text = (folder / "decisions.csv").read_text()
    nora = re.search("Nora [0-9]+", text)[0]
    (folder / "decisions.csv").write_text(text.replace(nora, "lynx_0000"))
    before = _names(world / "g")
    assert _gallery(world, "apply", folder / "decisions.csv") == 1
    assert "lynx_0000 would be the name of two animals" in capsys.readouterr().err
    (folder / "decisions.csv").write_text(text.replace(nora, "LYNX_0000"))
    assert _gallery(world, "apply", folder / "decisions.csv") == 1
    assert "too like lynx_0000" in capsys.readouterr().err
    assert _names(world / "g") == before


def test_a_known_animal_that_was_renamed_since_gets_its_photographs(world):
    folder = world / "identifications" / "i"
    _answer(read_review(folder))
    assert _gallery(world, "rename", "lynx_0000", "Zora") == 0
    assert _gallery(world, "apply", folder / "decisions.csv") == 0
    after = _names(world / "g")
    assert {name for image, name in after.items() if _animal(image) == "lynx_0000"} == {"Zora"}


def test_the_questions_can_be_answered_in_a_spreadsheet(world):
    folder = world / "identifications" / "i"
    rows = pd.read_csv(folder / "decisions.csv", dtype=str, keep_default_na=False)
    assert set(rows["verdict"]) == {""}
    visits = set(read_review(folder).photos.query("side == 'query'")["node"])
    assert visits <= set(rows["first"]) | set(rows["second"])
    known = rows[rows["name"] != ""].index[0]
    same = _animal(rows["first"][known]) == _animal(rows["second"][known])
    rows.loc[known, "verdict"] = "same" if same else "different"
    rows.to_csv(folder / "decisions.csv", index=False)
    run = read_review(folder)
    assert len(run.state().decisions) == 1
    confirmed = run.confirmed(run.state())
    assert list(confirmed.values()) == ([rows["name"][known]] if same else [])


def test_answers_of_two_people_are_one_review(world, tmp_path):
    folder = world / "identifications" / "i"
    shutil.copytree(folder, tmp_path / "other")
    _answer(read_review(folder), most=2)
    _answer(read_review(tmp_path / "other"), person="Bo", most=3)
    both = (folder / "decisions.csv").read_text() + (tmp_path / "other/decisions.csv").read_text()
    (folder / "decisions.csv").write_text(both)
    count = {row.who: 0 for row in read_review(folder).state().decisions}
    for row in read_review(folder).state().decisions:
        count[row.who] += 1
    assert count == {"Ada": 2, "Bo": 3}
    assert len(read_decisions(folder / "decisions.csv").decisions) > 5


def test_photographs_that_have_moved_are_taken_from_where_they_are(world, capsys):
    folder = world / "identifications" / "i"
    _answer(read_review(folder), most=8)
    photos = pd.read_parquet(folder / "photos.parquet")
    (root,) = photos.loc[photos["side"] == "query", "root"].unique()
    photos.loc[photos["side"] == "query", "root"] = str(world / "gone")
    photos.to_parquet(folder / "photos.parquet")
    before = _names(world / "g")
    assert _gallery(world, "apply", folder) == 1
    assert "dataset.root" in capsys.readouterr().err
    assert _gallery(world, "apply", folder, f"dataset.root={root}") == 0
    assert len(_names(world / "g")) > len(before)


def test_a_file_outside_its_run_is_refused(world, tmp_path, capsys):
    shutil.copy(world / "identifications" / "i" / "decisions.csv", tmp_path / "mine.csv")
    assert _gallery(world, "apply", tmp_path / "mine.csv") == 1
    assert "exreid review apply RUN mine.csv" in capsys.readouterr().err


def test_a_gallery_reviews_its_own_names(dataset, tmp_path):
    """The answers undo a wrong split; the scores are the gallery's own."""
    keys = [f"dataset.root={dataset}", f"output.root={tmp_path}", *CONFIG]
    keys += ["benchmark.method=local_index", "benchmark.local_top_k=32", "benchmark.local_size=96"]
    build_gallery(load_config(ProbeConfig, None, keys), tmp_path / "g")
    rows = open_gallery(tmp_path / "g").table.rows
    named = rows[rows["identity"] == "lynx_0000"]
    before = _names(tmp_path / "g")
    assert _gallery(tmp_path, "split", "lynx_0000", "Ghost", named["encounter"].iloc[-1]) == 0
    folder = score_gallery(open_gallery(tmp_path / "g"))
    assert folder == tmp_path / "g.review"
    run = read_review(folder)
    ghost, other = (
        next(visit for visit, name in run.named.items() if name == wanted)
        for wanted in ("Ghost", "lynx_0000")
    )
    for _ in range(2):
        first, second = sorted((ghost, other))
        question = Question(first, second, "queue", 0.5, None)
        run.answer(question, "same", who="Ada", seconds=1)
    for visit, name in run.named.items():
        if name in ("Ghost", "lynx_0000"):
            state = run.state()
            question = NameQuestion(visit, (visit,), "", ("lynx_0000",))
            run.name(state, question, "lynx_0000", who="Ada", seconds=1)
    assert _gallery(tmp_path, "apply", folder) == 0
    assert _names(tmp_path / "g") == before
    for name in ("g", "g.review"):
        (tmp_path / name).rename(tmp_path / f"moved{name}")
    folder = score_gallery(open_gallery(tmp_path / "movedg"))  # the names given before still count
    moved = read_review(folder)
    assert moved.confirmed(moved.state()) == run.confirmed(run.state())
    assert set(moved.photos["root"]) == {str(tmp_path / "movedg")}
    for name in ("g", "g.review"):
        (tmp_path / f"moved{name}").rename(tmp_path / name)
    folder = tmp_path / "g.review"
    assert _gallery(tmp_path, "rename", "lynx_0000", "Zora") == 0
    assert _gallery(tmp_path, "apply", folder) == 1
    assert score_gallery(open_gallery(tmp_path / "g")) == folder
    assert read_review(folder).confirmed(read_review(folder).state()) == {}
