"""Synthetic data: CzechLynx's layout, the same bytes each time, coats that tell apart."""

import csv
import errno
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from exreid.data.masks import decode_mask
from exreid.data.metadata import Columns, read_image_table
from exreid.data.synthetic import COLUMNS, write_dataset
from exreid.data.synthetic_coat import coat
from exreid.errors import ConfigError

CZECHLYNX = (
    "source,path,unique_name,date,relative_age,encounter,coat_pattern,location,cell_code,latitude,"
    "longitude,trap_id,mask,pose,split-geo_aware,split-time_open,split-time_closed,split-pose"
)


def _bytes_of(folder):
    return {
        str(file.relative_to(folder)): hashlib.md5(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_columns_and_rows_are_those_of_czechlynx(dataset):
    assert ",".join(COLUMNS) == CZECHLYNX
    columns = Columns(encounter=("source", "encounter"))
    table, rejected = read_image_table(str(dataset), columns=columns)
    assert (len(table), rejected) == (36, [])
    for path, mask in zip(table.rows["path"][:6], table.rows["mask"][:6], strict=True):
        height, width = cv2.imread(str(dataset / path)).shape[:2]
        mask_HW = decode_mask(mask, (width, height))
        assert mask_HW.shape == (height, width)
        assert 0.05 < mask_HW.mean() < 0.6


def test_same_arguments_same_bytes_and_more_animals_change_none(tmp_path, dataset):
    write_dataset(tmp_path / "a", identities=6, images_per_identity=6, seed=1, workers=3)
    assert _bytes_of(tmp_path / "a") == _bytes_of(dataset)
    write_dataset(tmp_path / "b", identities=2, images_per_identity=6, seed=1)
    whole, part = _bytes_of(dataset), _bytes_of(tmp_path / "b")
    images = [name for name in part if name.endswith(".jpg")]
    assert len(images) == 12
    assert all(part[name] == whole[name] for name in images)


def test_splits_never_cut_an_encounter_and_open_holds_new_animals(dataset):
    with (dataset / "CzechLynxDataset-Metadata-Real.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for split in ("split-time_closed", "split-time_open"):
        sides = {}
        for row in rows:
            sides.setdefault((row["source"], row["encounter"]), set()).add(row[split])
        assert all(len(both) == 1 for both in sides.values())
    names = {
        (split, side): {row["unique_name"] for row in rows if row[split] == side}
        for split in ("split-time_closed", "split-time_open")
        for side in ("train", "test")
    }
    assert names["split-time_closed", "test"] <= names["split-time_closed", "train"]
    new = names["split-time_open", "test"] - names["split-time_open", "train"]
    assert new == {"lynx_0004"}


def test_a_coat_is_the_animals_own_and_each_flank_has_its_own():
    def difference(a, b):
        return np.abs(a.astype(float) - b).mean()

    same = difference(coat(0, 3, 0), coat(0, 3, 0).copy())
    others = [difference(coat(0, 3, 0), coat(0, other, 0)) for other in (1, 2, 4)]
    flanks = difference(coat(0, 3, 0), coat(0, 3, 1))
    assert same == 0
    assert min(*others, flanks) > 15
    colours = [coat(0, identity, 0).mean() for identity in range(8)]
    assert np.ptp(colours) < 12  # the colour alone tells no one apart


def test_a_finished_data_set_is_left_alone_and_another_is_refused(tmp_path):
    file = write_dataset(tmp_path / "d", identities=1, images_per_identity=2)
    before = file.stat().st_mtime_ns
    assert write_dataset(tmp_path / "d", identities=1, images_per_identity=2) == file
    assert file.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="not empty"):
        write_dataset(tmp_path / "d", identities=2, images_per_identity=2)


def test_a_data_set_whose_writing_was_cut_is_finished(tmp_path, dataset, monkeypatch):
    write_bytes, written = Path.write_bytes, []

    def full_disk(file, data):
        written.append(file)
        if len(written) > 8:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return write_bytes(file, data[:99])

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    arguments = {"identities": 6, "images_per_identity": 6, "seed": 1}
    with pytest.raises(OSError, match="No space"):
        write_dataset(tmp_path / "d", **arguments)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="not empty"):
        write_dataset(tmp_path / "d", **{**arguments, "seed": 2})
    write_dataset(tmp_path / "d", **arguments)
    assert _bytes_of(tmp_path / "d") == _bytes_of(dataset)


@pytest.mark.parametrize("wrong", [{"identities": 0}, {"images_per_identity": 0}, {"seed": -1}])
def test_impossible_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(ConfigError):
        write_dataset(tmp_path / "d", **{"identities": 1, "images_per_identity": 1, **wrong})
