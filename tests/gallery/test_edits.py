"""Names of a gallery's animals that a person changes, and takes back."""

import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import GalleryError
from exreid.gallery import edits
from exreid.gallery.opening import open_gallery
from exreid.runs.gallery_build import build_gallery
from exreid.runs.gallery_change import edit_gallery, edit_of

CONFIG = [
    *("dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"),
    *("ray.num_actors=0", "benchmark.open_set.enabled=true", "benchmark.open_set.queries=12"),
]


def _config(root, out, *more):
    keys = [f"dataset.root={root}", f"output.root={out}", *CONFIG, *more]
    return load_config(ProbeConfig, None, keys)


@pytest.fixture
def gallery(few, tmp_path):
    build_gallery(_config(few, tmp_path), tmp_path / "g")
    return open_gallery(tmp_path / "g")


def _names(gallery):
    return dict(zip(gallery.table.rows["image_id"], gallery.table.rows["identity"], strict=True))


def _run(gallery, *words):
    code = main(["gallery", words[0], str(gallery.folder), *words[1:], "ray.num_actors=0"])
    assert code == 0
    return open_gallery(gallery.folder)


def test_a_renamed_gallery_is_the_one_that_a_table_with_that_name_makes(few, gallery, tmp_path):
    before = _names(gallery)
    old = sorted(set(before.values()))[1]
    changed = _run(gallery, "rename", old, "Zora")
    cells = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    (label,) = [name for name in cells if set(cells[name]) == set(before.values())]
    cells[label] = cells[label].replace(old, "Zora")
    cells.to_csv(tmp_path / "renamed.csv", index=False)
    table = f"dataset.metadata_file={tmp_path / 'renamed.csv'}"
    anew = build_gallery(_config(few, tmp_path, table), tmp_path / "anew").gallery
    assert changed.fingerprint == anew.fingerprint != gallery.fingerprint


def test_edits_are_taken_back_one_by_one(gallery, capsys):
    before = _names(gallery)
    first, second, third, _ = sorted(set(before.values()))
    photo = next(image for image, name in before.items() if name == third)
    merged = _run(gallery, "merge", first, second)
    assert _names(merged) == {i: first if n == second else n for i, n in before.items()}
    after = _names(_run(gallery, "split", third, "Nora", photo))
    assert [image for image, name in after.items() if name == "Nora"] == [photo]
    capsys.readouterr()
    assert main(["gallery", "log", str(gallery.folder)]) == 0
    said = capsys.readouterr().out
    assert f"{second} merged into {first} (4 photographs)" in said
    assert f"Nora split off {third} (1 photograph)" in said
    assert _names(_run(gallery, "undo")) == _names(merged)
    back = _run(gallery, "undo")
    assert _names(back) == before
    assert back.fingerprint == gallery.fingerprint
    assert [edit.action for edit in back.edits] == ["merge", "split", "undo", "undo"]
    assert main(["gallery", "undo", str(gallery.folder)]) == 1
    assert "no edit to undo" in capsys.readouterr().err


_ACTIONS = {
    "rename": lambda table, old, new: edits.rename(table, old, new, ["unknown"]),
    "merge": edits.merge,
    "split": lambda table, old, new, *places: edits.split(table, old, new, places, []),
    "remove": lambda table, *words: edits.remove(table, words),
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rename", "A", "B"], "another animal called B"),
        (["rename", "A", "b"], "too like B"),
        (["rename", "A", "Unknown"], "not a name"),
        (["rename", "Aa", "C"], "no animal called Aa. Did you mean A"),
        (["merge", "A", "B"], "both.png shows both A and B"),
        (["merge", "A", "A"], "two animals"),
        (["split", "A", "C", "3.pmg"], "photograph or encounter 3.pmg. Did you mean 3.png"),
        (["split", "A", "C", "1.png", "night"], "all photographs of A"),
        (["split", "A", "C"], "Name the photographs"),
        (["remove", "both.pmg"], "no photograph and no animal both.pmg. Did you mean both.png"),
        (["remove", "A", "B"], "all photographs of the gallery"),
    ],
)
def test_a_name_would_stand_for_two_animals(words, message):
    action, *names = words
    with pytest.raises(GalleryError, match=message):
        _ACTIONS[action](_table(), *names)


def test_photographs_are_removed_by_id_path_or_animal():
    assert list(edits.remove(_table(), ["both.png#2", "3.png"])) == ["both.png#2", "3.png"]
    assert list(edits.remove(_table(), ["both.png"])) == ["both.png#1", "both.png#2"]
    assert list(edits.remove(_table(), ["A", "1.png"])) == ["both.png#1", "1.png", "3.png"]
    named = _table()
    named.rows.loc[0, "identity"] = "3.png"
    with pytest.raises(GalleryError, match="both a photograph and an animal"):
        edits.remove(named, ["3.png"])


def test_an_encounter_is_split_off():
    assert edits.split(_table(), "A", " C ", ["night"], []) == {"both.png#1": "C", "3.png": "C"}


def test_edits_of_an_earlier_version_are_read_and_written_in_the_form_of_today(tmp_path):
    when = "2026-05-01T12:00:00+00:00"
    lines = ["edit,action,image_id,before,after,who,when"]
    lines += [f"1,merge,{i}.png,B,A,Ada,{when}" for i in (1, 2)]
    lines += [f"2,merge,'=3.png,C,A,Ada,{when}", f"3,undo,'=3.png,A,C,Ada,{when}"]
    file = tmp_path / "decisions.csv"
    file.write_text("\n".join(lines) + "\n")
    found = edits.read_edits(file)
    assert [(e.action, e.before, e.after) for e in found] == [
        ("merge", {"1.png": "B", "2.png": "B"}, {"1.png": "A", "2.png": "A"}),
        ("merge", {"=3.png": "C"}, {"=3.png": "A"}),
        ("undo", {"=3.png": "A"}, {"=3.png": "C"}),
    ]
    edits.write_edits(file, found)
    assert edits.read_edits(file) == found
    assert file.read_text().startswith("first,second,verdict,name,who,when,")
    file.write_text(file.read_text().replace("merge", "same"))
    with pytest.raises(GalleryError, match="damaged"):
        edits.read_edits(file)


def test_a_new_name_is_one_line_and_any_old_one_comes_back_as_it_was(tmp_path):
    ids = edits.rename(_table(), "B", "Bo\r\n  Peep\u2028the first\n", [])
    assert ids == {"both.png#2": "Bo   Peep the first"}
    odd = "Bo\nPeep\u2028the\x0bfirst"
    edit = edits.Edit("rename", {"1.png": odd}, {"1.png": "Bo"}, "Ada", edits.now())
    edits.write_edits(tmp_path / "decisions.csv", [edit])
    assert edits.read_edits(tmp_path / "decisions.csv") == [edit]


def _table():
    from exreid.records import ImageTable

    rows = pd.DataFrame(
        [
            ("both.png#1", "both.png", "A", "night"),
            ("both.png#2", "both.png", "B", "night"),
            ("1.png", "1.png", "A", None),
            ("3.png", "3.png", "A", "night"),
        ],
        columns=["image_id", "path", "identity", "encounter"],
        dtype=object,
    ).assign(split=None, mask=None, date=None, viewpoint=None, row=2)
    return ImageTable(rows, rows[[]], "", "t")


def test_photographs_with_a_name_that_was_taken_away_are_refused(few, gallery, tmp_path, capsys):
    names = sorted(set(_names(gallery).values()))
    _run(gallery, "rename", names[0], "Zora")
    cells = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    cells.to_csv(tmp_path / "more.csv", index=False)
    words = [f"dataset.metadata_file={tmp_path / 'more.csv'}", f"dataset.root={few}"]
    assert main(["gallery", "add", str(gallery.folder), *words, "ray.num_actors=0"]) == 1
    assert f"shows {names[0]}, which the gallery has called Zora since" in capsys.readouterr().err


def test_a_gallery_that_another_process_has_changed_is_not_overwritten(gallery):
    old, *_ = sorted(set(_names(gallery).values()))
    config = gallery.config.model_copy(
        update={"ray": gallery.config.ray.model_copy(update={"num_actors": 0})}
    )
    zora, nora = (
        edit_of(gallery, "rename", edits.rename(gallery.table, old, name, []))
        for name in ("Zora", "Nora")
    )
    edit_gallery(gallery, config, zora)
    with pytest.raises(GalleryError, match="another process has changed it"):
        edit_gallery(gallery, config, nora)
    assert "Zora" in set(_names(open_gallery(gallery.folder)).values())


def test_removed_photographs_answer_nothing_and_come_back_where_they_were(
    few, gallery, tmp_path, capsys
):
    before, vectors_GD = _names(gallery), gallery.vectors(0).copy()
    first, second, *_ = sorted(set(before.values()))
    photos = [image for image, name in before.items() if name == first]
    one = photos[1]
    without = _run(gallery, "remove", one)
    assert _names(without) == {i: n for i, n in before.items() if i != one}
    assert "1 photograph of" in without.edits[-1].words()
    # It is as if it had never been there.
    cells = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    left = cells[[not path.endswith(one.rsplit("/")[-1]) for path in cells["path"]]]
    assert len(left) == len(cells) - 1
    left.to_csv(tmp_path / "left.csv", index=False)
    table = f"dataset.metadata_file={tmp_path / 'left.csv'}"
    anew = build_gallery(_config(few, tmp_path, table), tmp_path / "anew").gallery
    assert without.fingerprint == anew.fingerprint != gallery.fingerprint
    # The table that still has it does not bring it back.
    words = [f"dataset.root={few}", "ray.num_actors=0"]
    assert main(["gallery", "add", str(gallery.folder), *words]) == 0
    assert "as they were removed from the gallery" in capsys.readouterr().err
    assert len(open_gallery(gallery.folder)) == len(gallery) - 1
    _run(gallery, "remove", second, photos[0])
    fewer = _run(gallery, "rename", first, "Zora")
    assert fewer.vectors(0).shape[0] == len(fewer) == len(gallery) - 2 - 4
    for _ in range(2):
        _run(gallery, "undo")
    assert _names(open_gallery(gallery.folder)) == _names(without)
    back = _run(gallery, "undo")
    assert list(_names(back).items()) == list(before.items())
    assert back.fingerprint == gallery.fingerprint
    assert (back.vectors(0) == vectors_GD).all()
    assert not (back.folder / "removed.parquet").exists()
    assert all(back.thumbnail(content) for content in back.content_G)
