"""Folders called like the animals on their photographs."""

from datetime import datetime, timedelta

import pytest
from PIL import Image

from exreid.cli import main
from exreid.data.imports.read import Choices, import_source
from exreid.errors import MetadataError


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
    assert made.left_out == {"files that are no photographs": 1}
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
    more = [f"output.root={tmp_path}", "benchmark.open_set.enabled=false"]
    assert main(["gallery", "build", str(tmp_path / "lynx"), "--out", gallery, *small, *more]) == 0
    assert main(["gallery", "add", gallery, str(tmp_path / "card2")]) == 0
    out = capsys.readouterr().out
    assert "1 photographs added" in out
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
    more = [f"output.root={tmp_path}", "benchmark.open_set.enabled=false"]
    assert main(["gallery", "build", str(tmp_path / "lynx"), "--out", gallery, *small, *more]) == 0
    assert main(["gallery", "add", gallery, str(tmp_path / "card2")]) == 0
    told = capsys.readouterr()
    assert "5 photographs of 2 animals" in told.out
    assert "no time in their EXIF" in told.err
    assert "taken, as nothing else is said" not in told.err
