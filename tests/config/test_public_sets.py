"""Public data sets: their files, the keys that they stand for, and made sets in their layouts."""

import csv
import json
import shlex

import pandas as pd
import pytest
from PIL import Image

from exreid.api.settings import overrides_of
from exreid.cli import main
from exreid.config.io import fingerprint, load_config
from exreid.config.probe import ProbeConfig
from exreid.config.public import public_names, public_set
from exreid.config.sweep import load_sweep
from exreid.config.training import FinetuneConfig
from exreid.errors import ConfigError
from exreid.pipeline.inputs import read_images, settled
from exreid.runs.validate import run_validate

READ = [name for name in public_names() if not public_set(name).unreadable]
UNREAD = sorted(set(public_names()) - set(READ))


@pytest.mark.parametrize("name", public_names())
def test_each_says_what_one_needs_before_a_download(name):
    one = public_set(name)
    assert one.licence
    assert one.url.startswith("https://")
    assert all("/" in source or "arXiv" in source for source in one.sources)
    assert one.split
    for line in one.published:
        assert line.source
        assert line.metrics
        if line.keys is not None:
            load_config(ProbeConfig, None, [f"dataset.preset={name}", *overrides_of(line.keys)])


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("model", [ProbeConfig, FinetuneConfig])
def test_its_keys_are_those_of_the_config(name, model):
    config = load_config(model, None, [f"dataset.preset={name}"])
    for key, value in public_set(name).keys.items():
        there = getattr(config.dataset, key)
        assert there == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize("name", UNREAD)
def test_one_that_cannot_be_read_is_refused_with_the_reason(name, capsys):
    with pytest.raises(ConfigError, match="cannot read the files"):
        load_config(ProbeConfig, None, [f"dataset.preset={name}"])
    assert main(["datasets", name]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert public_set(name).unreadable.strip() in out
    assert "dataset.preset" not in out


def test_a_key_that_is_written_wins_wherever_it_is_written(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("dataset: {preset: CzechLynx-v2, split_col: split-time_open}\n")
    dataset = load_config(ProbeConfig, file, ["dataset.encounter_cols=[]"]).dataset
    assert (dataset.split_col, dataset.encounter_cols) == ("split-time_open", ())
    assert dataset.mask_col == "mask"
    own = load_config(ProbeConfig, None, ["dataset.preset=belugaid", "dataset.split_col=part"])
    assert own.dataset.make_split is None, "the split that is named is taken, and none made"
    space = "space: {benchmark.candidate_k: {randint: [5, 9]}}"
    file.write_text(f"dataset: {{preset: seaturtleid2022}}\ntune: {{run: probe, {space}}}\n")
    assert load_sweep(file).dataset.label_col == "identity"


def test_the_same_keys_without_the_preset_are_the_same_run():
    keys = public_set("czechlynx-v2").keys
    words = overrides_of({f"dataset.{key}": value for key, value in keys.items()})
    with_it = load_config(ProbeConfig, None, ["dataset.preset=czechlynx-v2"])
    assert fingerprint(with_it) == fingerprint(load_config(ProbeConfig, None, words))


def test_an_unknown_name_is_answered_with_the_near_ones(capsys):
    assert main(["probe", "dataset.preset=hyenaid"]) == 2
    assert "dataset.preset: there is no public data set 'hyenaid'." in capsys.readouterr().err
    assert main(["datasets", "leopardid"]) == 2
    assert "Did you mean leopardid2022" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 200])
def test_the_list_fits_a_terminal_and_nothing_is_cut(capsys, monkeypatch, width):
    monkeypatch.setattr("exreid.commands.datasets.OUT.width", width, raising=False)
    assert main(["datasets"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines[:-1])
    left = head.index("licence")
    cells: dict[str, list[str]] = {}
    for line in lines[:-2]:
        name = line.split()[0] if line[0] != " " else name  # noqa: F821 - of the row that goes on
        cells.setdefault(name, []).append(line[left:].strip())
    licence_of = {name: " ".join(" ".join(parts).split()) for name, parts in cells.items()}
    assert licence_of == {name: public_set(name).licence for name in public_names()}
    assert width == 80 or len(lines) == len(public_names()) + 2


# Made sets in the layouts that the files describe: what each row of the originals' code reads.


def _photo(file, shade=0):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40), (shade % 256, 90, 30)).save(file)


def _table(file, rows):
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _read(name, folder, *, problems=0):
    """The images as a probe reads them, where exreid validate finds so many ``problems``."""
    root = folder / public_set(name).folder
    config = load_config(ProbeConfig, None, [f"dataset.preset={name}", f"dataset.root={root}"])
    table, rejected = read_images(settled(config))
    found = run_validate(config).problems
    assert len(found) == problems, found
    return table.rows, rejected


WILD_ME = ("belugaid", "giraffezebraid", "hyenaid2022", "leopardid2022", "whalesharkid")
FOLDERS = {
    "catindividualimages": ("0001", "0518"),
    "cows2021": ("001", "182"),
    "dogfacenet": ("7", "1392"),
    "friesiancattle2017": ("01", "89"),
    "ipanda50": ("00_aoliao", "01_aolin"),
    "liondata": ("Ayo", "Blackie"),
    "seastarreid2023": ("Anau01", "Asru02"),
}
"""Two animals of each, as the originals name them."""
TABLES = {
    "happywhale": ("image", "individual_id", "train.csv", {"species": "beluga"}),
    "zakynthosturtles": (
        "path",
        "identity",
        "annotations.csv",
        {"date": "12_06_2019", "orientation": "left"},
    ),
    "southernprovinceturtles": (
        "image_name",
        "identity",
        "annotations.csv",
        {"daytime": "day", "orientation": "left"},
    ),
    "wildlifereid-10k": (
        "path",
        "identity",
        "metadata.csv",
        {"dataset": "A", "species": "s", "orientation": "left"},
    ),
}
"""Of each: the columns of paths and names, the file, and further columns."""
ALONE = ("czechlynx-v2", "humpbackwhaleid", "nyaladata", "opencows2020", "seaturtleid2022")


def test_each_has_a_made_set():
    assert sorted([*WILD_ME, *FOLDERS, *TABLES, *ALONE]) == READ


def test_czechlynx(dataset):
    rows, _ = _read("czechlynx-v2", dataset)
    assert rows["identity"].nunique() == 6
    assert set(rows["split"]) == {"train", "test"}
    assert rows["encounter"].notna().all()
    assert rows["mask"].notna().all()


def test_seaturtleid2022(tmp_path):
    data = tmp_path / "turtles-data" / "data"
    rows = []
    for i, (turtle, part) in enumerate([("t001", "train"), ("t001", "test"), ("t002", "valid")]):
        _photo(data / "images" / turtle / f"{i}.JPG", i)
        file = f"images/{turtle}/{i}.JPG"
        sizes = {"width": 60, "height": 40}
        dates = {"timestamp": "2014:07:14 14:49:45", "date": "2014:07:14", "year": 2014}
        splits = {"split_closed": part, "split_closed_random": "train", "split_open": "train"}
        rows.append({"id": i, "file_name": file, "identity": turtle, **sizes, **dates, **splits})
    _table(data / "metadata_splits.csv", rows)
    read, _ = _read("seaturtleid2022", tmp_path)
    assert read["identity"].tolist() == ["t001", "t001", "t002"]
    assert read["split"].tolist() == ["train", "test", "valid"]
    assert read["date"].notna().all()


@pytest.mark.parametrize("name", WILD_ME)
def test_wild_mes_coco(name, tmp_path):
    one = public_set(name)
    year = str(one.keys["metadata_file"]).removesuffix(".json")[-4:]
    root = tmp_path / one.folder
    images, annotations = [], []
    for i in range(8):
        _photo(root / "images" / f"train{year}" / f"{i:012}.jpg", 20 * i)
        sizes = {"width": 60, "height": 40, "date_captured": "NA"}
        images.append({"id": i, "file_name": f"{i:012}.jpg", **sizes})
        box = {"bbox": [5, 5, 40, 30], "segmentation": [[5, 5, 45, 5, 45, 35, 5, 35]], "theta": 0.0}
        name_of = {"name": "____" if i == 7 else f"animal {i % 2}", "viewpoint": "left"}
        annotations.append({"id": i, "image_id": i, "category_id": 0, **box, **name_of})
    (root / "annotations").mkdir()
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 0, "name": "animal", "supercategory": "animal"}]
    (tmp_path / one.folder / str(one.keys["metadata_file"])).write_text(json.dumps(content))
    read, _ = _read(name, tmp_path)
    assert sorted(read["identity"]) == ["animal 0"] * 4 + ["animal 1"] * 3, "____ is no name"
    assert set(read["split"]) == {"train", "test"}
    assert read["viewpoint"].tolist() == ["left"] * 7


def test_nyaladata_by_the_commands_that_are_printed(tmp_path, capsys):
    for i, (part, animal, sighting) in enumerate(
        [("test", 1, 14), ("test", 1, 328), ("train", 100, 124), ("train", 100, 258)]
    ):
        for side in ("left", "right"):
            file = tmp_path / "Nyala_Data_Zero" / part / str(animal)
            _photo(file / f"{sighting}_{side}photo.jpg", 30 * i + (side == "left"))
    assert main(["datasets", "nyaladata"]) == 0
    printed = capsys.readouterr().out.replace("DIR", str(tmp_path)).splitlines()
    first = next(line for line in printed if line.startswith("  exreid import"))
    assert main(shlex.split(first)[1:]) == 0
    read, _ = _read("nyaladata", tmp_path)
    assert sorted(set(read["identity"])) == ["1", "100"]
    assert read["encounter"].nunique() == 4
    assert set(read["viewpoint"]) == {"left", "right"}
    assert read.groupby("encounter")["split"].nunique().eq(1).all(), "no sighting is cut"


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_animals(name, tmp_path):
    one, animals = public_set(name), FOLDERS[name]
    for animal in animals:
        for i in range(3):
            _photo(tmp_path / one.folder / animal / f"{animal}_{i}.jpg", 9 * i)
    if one.prepare:
        _photo(tmp_path / one.folder / animals[0] / animals[0] / "copy.jpg")
        command = one.prepare.replace("ROOT", str(tmp_path / one.folder))
        assert main(shlex.split(command)[1:]) == 0
    read, _ = _read(name, tmp_path)
    assert sorted(read["identity"]) == sorted(3 * animals)
    assert set(read["split"]) == {"train", "test"}


def test_opencows2020(tmp_path):
    for part in ("train", "test"):
        for animal in ("001", "002"):
            _photo(tmp_path / part / animal / f"{part}.jpg", len(part))
    read, _ = _read("opencows2020", tmp_path)
    assert sorted(zip(read["identity"], read["split"], strict=True)) == [
        *(("001", "test"), ("001", "train"), ("002", "test"), ("002", "train")),
    ]


@pytest.mark.parametrize("name", TABLES)
def test_tables(name, tmp_path):
    path_col, label_col, table, more = TABLES[name]
    for i in range(4):
        _photo(tmp_path / public_set(name).folder / f"{i}.jpg", 30 * i)
    rows = [{path_col: f"{i}.jpg", label_col: f"a{i % 2}", **more} for i in range(4)]
    if name == "wildlifereid-10k":
        rows = [row | {"split": "train" if i < 2 else "test"} for i, row in enumerate(rows)]
    _table(tmp_path / table, rows)
    read, rejected = _read(name, tmp_path)
    assert read["identity"].tolist() == ["a0", "a1", "a0", "a1"]
    assert not rejected
    assert set(read["split"]) == {"train", "test"}
    assert name != "wildlifereid-10k" or read["split"].tolist() == 2 * ["train"] + 2 * ["test"]


def test_humpbackwhaleid_lists_what_has_no_name(tmp_path):
    for i in range(5):
        _photo(tmp_path / "train" / f"{i}.jpg", 30 * i)
    names = ["w_1", "w_1", "w_2", "w_2", "new_whale"]
    _table(tmp_path / "train.csv", [{"Image": f"{i}.jpg", "Id": n} for i, n in enumerate(names)])
    read, rejected = _read("humpbackwhaleid", tmp_path, problems=1)
    assert read["identity"].tolist() == names[:4]
    assert [image.path for image in rejected] == ["4.jpg"]


def test_a_table_of_wildlife_datasets_is_read_as_it_is_said_to_be(tmp_path):
    for i in range(4):
        _photo(tmp_path / f"{i}.jpg", 30 * i)
    frame = pd.DataFrame(
        {
            "image_id": range(4),
            "identity": ["1", "1", "2", "2"],
            "path": [f"{i}.jpg" for i in range(4)],
            "bbox": ["[5, 5, 40, 30]"] * 4,
        }
    )
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    words = [f"dataset.root={tmp_path}", "dataset.metadata_file=metadata.csv"]
    table, _ = read_images(settled(load_config(ProbeConfig, None, words)))
    assert table.rows["identity"].tolist() == ["1", "1", "2", "2"]
