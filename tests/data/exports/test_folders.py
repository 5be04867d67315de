"""Folders that every system can have, and files that are never written over."""

import pytest

from exreid.data.exports.folders import file_names, safe_folders

AWKWARD = ["Zita", "zita", "ZITA_2", "a/b", "a_b", "..", ".hidden", "CON", "con.txt", "x" * 300,
           "ä" * 200, "end.", "007", "=1+1", "a:b", "tab\there", "Zoë", "Zoe\u0308"]  # fmt: skip


def test_no_two_names_share_a_folder_on_any_system(tmp_path):
    folders = safe_folders(AWKWARD)
    assert list(folders) == AWKWARD
    assert len({name.casefold() for name in folders.values()}) == len(AWKWARD)
    for folder in folders.values():
        (tmp_path / folder).mkdir()
        assert not set(folder) & set('\\/:*?"<>|\t')
        assert folder[0] != "."
        assert folder[-1] not in ". "
        assert len(folder.encode()) < 255
    assert len([*tmp_path.iterdir()]) == len(AWKWARD)
    for name in ("Zita", "a_b", "007", "=1+1", "Zoë"):
        assert folders[name] == name


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["1/a.jpg", "2/a.jpg", "b.jpg"], ["1_a.jpg", "2_a.jpg", "b.jpg"]),
        (["1/a.jpg", "2/A.JPG"], ["1_a.jpg", "2_A.JPG"]),
        (["1/a.jpg", "2/a.jpg", "1_a.jpg"], ["1_a_2.jpg", "2_a.jpg", "1_a.jpg"]),
        (["x/y/a.jpg", "x_y/a.jpg"], ["x_y_a.jpg", "x_y_a_2.jpg"]),
        (["..a.jpg"], ["__a.jpg"]),
    ],
)
def test_equal_names_never_meet(paths, names):
    found = file_names([("Zita", path) for path in paths])
    assert list(found.values()) == [f"Zita/{name}" for name in names]
