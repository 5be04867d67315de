"""Folders called like the animals on their photographs."""

import os
from datetime import datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.imports.read import Choices, import_source
from exreid.data.masks import decode_mask
from exreid.errors import MetadataError
from exreid.pipeline.inputs import read_images, settled


def _photo(file, taken=None, shade=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 30), (shade, 90, 200 - shade))
    exif = Image.Exif()
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
    image.save(file, exif=exif)


def _cells(root, **choices):
    return import_source(str(root), what="folders", choices=Choices(**choices))


def test_a_folder_for_each_animal_with_times_and_visits(tmp_path):
    night = datetime(2024, 5, 1, 22)
    for number, minutes in enumerate((0, 4, 60)):
        _photo(tmp_path / "Zita" / f"DSC_{number}.JPG", night + timedelta(minutes=minutes), number)
    _photo(tmp_path / "Bela" / "DSC_0.JPG", night, 9)
    (tmp_path / "Bela" / "notes.txt").write_text("x")
    made = _cells(tmp_path)
    cells = made.cells.set_index("path")
    assert cells["unique_name"].to_dict() == {
        "Bela/DSC_0.JPG": "Bela",
        **{f"Zita/DSC_{n}.JPG": "Zita" for n in range(3)},
    }
    first, second, third = (cells.loc[f"Zita/DSC_{n}.JPG", "encounter"] for n in range(3))
    assert first == second != third
    assert cells.loc["Bela/DSC_0.JPG", "encounter"] != first, "another animal's visit"
    assert cells.loc["Zita/DSC_2.JPG", "date"].startswith("2024-05-01 23:00")
    assert made.left_out == {"files that are not photographs": 1}
    wide = _cells(tmp_path, encounter_minutes=120).cells.set_index("path")["encounter"]
    assert wide["Zita/DSC_0.JPG"] == wide["Zita/DSC_2.JPG"]


def test_sites_visits_days_and_sides(tmp_path):
    _photo(tmp_path / "north" / "Zita" / "visit_3" / "left" / "a.png", shade=1)
    _photo(tmp_path / "south" / "Zita" / "2024-05-01" / "b.png", shade=2)
    made = _cells(tmp_path)
    cells = made.cells.set_index("path")
    left, right = "north/Zita/visit_3/left/a.png", "south/Zita/2024-05-01/b.png"
    assert cells["unique_name"].to_dict() == {left: "Zita", right: "Zita"}
    assert cells["site"].to_dict() == {left: "north", right: "south"}
    assert cells.loc[left, "viewpoint"] == "left"
    assert "SITE/ANIMAL/photograph" in "".join(made.notes)


def test_four_digits_name_an_animal_unless_they_are_a_year(tmp_path):
    for n, place in enumerate(("0001", "0002", "1234/2023")):
        _photo(tmp_path / place / "a.png", shade=n)
    names = _cells(tmp_path).cells.set_index("path")["unique_name"].to_dict()
    assert names == {"0001/a.png": "0001", "0002/a.png": "0002", "1234/2023/a.png": "1234"}


def test_a_template_says_what_folders_mean(tmp_path):
    _photo(tmp_path / "Zita" / "2023" / "left_1.jpg", shade=1)
    _photo(tmp_path / "stray.jpg", shade=2)
    made = _cells(tmp_path, template="{unique_name}/{year}/{viewpoint}_*.jpg")
    [row] = made.cells.to_dict("records")
    assert (row["unique_name"], row["year"], row["viewpoint"]) == ("Zita", "2023", "left")
    assert made.left_out["photographs that the template does not fit"] == 1
    with pytest.raises(MetadataError, match="unique_name"):
        _cells(tmp_path, template="{site}/*")


def test_what_cannot_be_guessed_is_refused_with_the_remedy(tmp_path):
    _photo(tmp_path / "a" / "Zita" / "1.jpg")
    _photo(tmp_path / "Bela" / "1.jpg", shade=5)
    with pytest.raises(MetadataError, match=r"different depths.*--template"):
        _cells(tmp_path)
    flat = tmp_path / "flat"
    _photo(flat / "1.jpg")
    with pytest.raises(MetadataError, match="folder for each animal"):
        _cells(flat)


def test_a_gallery_of_folders_takes_a_second_card_with_the_same_names(tmp_path, capsys):
    for i, name in enumerate(("Zita", "Bela", "Kira")):
        for number in range(2):
            _photo(tmp_path / "lynx" / name / f"DSC_{number}.JPG", shade=60 * i + 20 * number)
    _photo(tmp_path / "card2" / "Zita" / "DSC_0.JPG", shade=250)
    gallery, small = str(tmp_path / "g"), ["dataset.image_size=32", "ray.num_actors=0"]
    more = [
        f"output.root={tmp_path}",
        "benchmark.open_set.enabled=false",
        "benchmark.method=cosine",
    ]
    assert main(["gallery", "build", str(tmp_path / "lynx"), "--out", gallery, *small, *more]) == 0
    assert main(["gallery", "add", gallery, str(tmp_path / "card2"), more[0]]) == 0
    out = capsys.readouterr().out
    assert "1 photograph added" in out
    assert "7 photographs of 3 animals" in out
    assert main(["identify", str(tmp_path / "card2"), "--gallery", gallery, more[0]]) == 0
    assert "card2/Zita/DSC_0.JPG" in capsys.readouterr().out, "it is known by its content"


def test_a_card_without_times_is_added_to_a_gallery_with_visits(tmp_path, capsys):
    for number in range(2):
        for shade, name in enumerate(("Zita", "Bela")):
            photo = tmp_path / "lynx" / name / f"DSC_{number}.JPG"
            _photo(photo, datetime(2024, 5, 1 + number), shade=60 * shade + 20 * number)
    _photo(tmp_path / "card2" / "Zita" / "DSC_0.JPG", shade=250)
    gallery, small = str(tmp_path / "g"), ["dataset.image_size=32", "ray.num_actors=0"]
    more = [
        f"output.root={tmp_path}",
        "benchmark.open_set.enabled=false",
        "benchmark.method=cosine",
    ]
    assert main(["gallery", "build", str(tmp_path / "lynx"), "--out", gallery, *small, *more]) == 0
    assert main(["gallery", "add", gallery, str(tmp_path / "card2"), more[0]]) == 0
    told = capsys.readouterr()
    assert "5 photographs of 2 animals" in told.out
    assert "ithout a time in the EXIF" in told.err
    assert "taken, as nothing else is said" not in told.err


ANIMAL = np.zeros((30, 40), np.uint8)
ANIMAL[5:20, 10:30] = 255


def _mask(file, pixels=ANIMAL):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _masks(made):
    cells = made.cells.set_index("path")
    masks = cells["mask"] if "mask" in cells else dict.fromkeys(cells.index)
    return {
        path: None if masks[path] is None else decode_mask(masks[path], (40, 30))
        for path in cells.index
    }


@pytest.mark.parametrize("place", ["masks/{animal}/{name}", "Masks/{name}", "{animal}/mask/{name}"])
@pytest.mark.parametrize("deep", ["", "north/"])
def test_masks_in_a_folder_of_their_own_are_the_photographs(tmp_path, place, deep):
    for number, animal in enumerate(("Kira", "Nala")):
        for name in (f"{animal}1", f"{animal}2"):
            _photo(tmp_path / deep / animal / f"{name}.jpg", shade=number)
            if name != "Nala2":
                shown = ANIMAL if name != "Kira2" else np.where(ANIMAL, 1, 0).astype(np.uint8)
                _mask(tmp_path / deep / place.format(animal=animal, name=f"{name}.png"), shown)
    made = _cells(tmp_path)
    assert made.cells["unique_name"].tolist() == ["Kira", "Kira", "Nala", "Nala"]
    masks = _masks(made)
    assert masks.pop(f"{deep}Nala/Nala2.jpg") is None
    for mask in masks.values():
        np.testing.assert_array_equal(mask, ANIMAL > 0)
    told = [note for note in made.notes if "has masks" in note]
    beside = (2, 2) if "animal}/mask" in place else (3,)
    assert len(told) == len(beside)
    assert sum(f"of {n} of the" in note for note, n in zip(told, beside, strict=True)) >= 1
    assert "ANIMAL/photograph" in "".join(made.notes)


def test_an_animal_may_be_called_mask_and_masks_may_show_two(tmp_path):
    for name in ("Mask/a.png", "Mask/b.png", "Kira/c.jpg", "Kira/d.jpg", "Nala/e.jpg"):
        _photo(tmp_path / name, shade=ord(name[-5]))
    made = _cells(tmp_path)
    assert sorted(set(made.cells["unique_name"])) == ["Kira", "Mask", "Nala"]
    assert not any("has masks" in note for note in made.notes)
    two = np.zeros((30, 40), np.uint8)
    two[:10, :10], two[20:, 20:] = 1, 2
    _mask(tmp_path / "Kira" / "masks" / "c.png", two)
    _mask(tmp_path / "Kira" / "masks" / "d.png")
    _mask(tmp_path / "Kira" / "masks" / "x.png")
    made = _cells(tmp_path)
    assert len(made.cells) == 5
    assert [path for path, mask in _masks(made).items() if mask is not None] == ["Kira/d.jpg"]
    (told,) = (note for note in made.notes if "has masks" in note)
    assert told == (
        "Kira/masks/ has masks, of 2 of the 2 photographs beside it; not used, as they show "
        "several animals: 1; without a photograph: 1 image"
    )


def test_masks_that_could_be_of_two_photographs_stop(tmp_path):
    for animal in ("Kira", "Nala"):
        _photo(tmp_path / animal / "a.jpg")
    _mask(tmp_path / "masks" / "a.png")
    with pytest.raises(MetadataError, match=r"a.png could be the mask of Kira/a.jpg and of Nala"):
        _cells(tmp_path)


def test_a_tree_of_folders_is_walked_once(tmp_path, monkeypatch):
    """Each folder is listed once to read it; recognising it stops at the first photograph."""
    animals = [f"animal{i:02}" for i in range(30)]
    for animal in animals:
        _photo(tmp_path / animal / "a.jpg")
    listed, scandir = [], os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path=".": (listed.append(str(path)), scandir(path))[1]
    )
    config = load_config(ProbeConfig, None, [f"dataset.root={tmp_path}"])
    table, _ = read_images(settled(config), with_split=False)
    assert len(table) == 30
    counts = [listed.count(str(tmp_path / animal)) for animal in animals]
    assert sum(counts) <= 30 + 10, counts
