"""Photographs without a table: what is found, when it was taken, what is one visit."""

import io
import os
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from exreid.data.photos import find_photos, group_encounters, taken_at
from exreid.errors import ImageError
from exreid.storage.urls import read_bytes, read_regular


def _jpeg(tag=None, value=""):
    exif = Image.Exif()
    if tag:
        exif.get_ifd(0x8769)[tag] = value
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("tag", [0x9003, 0x9004])
def test_the_time_is_the_cameras_own(tag):
    assert taken_at(_jpeg(tag, "2024:02:29 23:59:58")) == np.datetime64("2024-02-29T23:59:58")


@pytest.mark.parametrize("value", ["", "0000:00:00 00:00:00", "yesterday"])
def test_a_time_that_is_none_is_unknown(value):
    assert np.isnat(taken_at(_jpeg(0x9003, value)))


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff"])
def test_what_is_no_image_is_an_error(data):
    with pytest.raises(ImageError):
        taken_at(data)


def test_photographs_are_found_once_and_the_rest_is_counted(tmp_path):
    for name in ("a/1.JPG", "a/b/2.jpeg", "a/b/.hidden.jpg", "a/list.csv", ".x/3.jpg", "c/odd.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_photos([tmp_path / "a", tmp_path / "a/1.JPG", tmp_path / "c/odd.dat"])
    assert found.root == str(tmp_path)
    assert found.paths == ("a/1.JPG", "a/b/2.jpeg", "c/odd.dat")
    assert found.others == 2
    assert find_photos([tmp_path / "a/b/2.jpeg"]).paths == ("2.jpeg",)
    with pytest.raises(ImageError, match="no such"):
        find_photos([tmp_path / "nowhere"])
    with pytest.raises(ImageError, match="no photograph in"):
        find_photos([tmp_path / "c"])


PATHS = ["x/1", "x/2", "x/3", "y/4", "y/5", "visit_3/6", "visit_3/7", "8"]
TIMES = np.array(
    [
        *("2024-05-01T22:09", "2024-05-01T22:00", "2024-05-01T22:18", "2024-05-01T22:01"),
        *("NaT", "NaT", "2024-05-02T01:00", "NaT"),
    ],
    "datetime64[s]",
)


def _groups(**options):
    visits = group_encounters(PATHS, TIMES, **{"known": [None] * 8, "minutes": 9, **options})
    return visits.name_N, visits.how_N


def test_visits_are_chains_of_times_within_a_folder():
    names, how = _groups()
    # 22:00, 22:09 and 22:18 hang together although the ends are 18 minutes apart.
    assert names[0] == names[1] == names[2] == "x 2024-05-01 22:00:00"
    assert names[3] == "y 2024-05-01 22:01:00"
    assert names[4] is None, "its folder's name says nothing"
    assert names[5] == "visit_3"
    assert names[6] == "visit_3 2024-05-02 01:00:00"
    assert names[7] is None
    assert how == ["time", "time", "time", "time", "alone", "folder", "time", "alone"]


def test_visits_by_other_rules():
    assert len(set(_groups(minutes=8.9)[0][:3])) == 3
    assert _groups(rule="folder")[0] == ["x", "x", "x", "y", "y", "visit_3", "visit_3", "."]
    assert _groups(rule="time")[0][5] is None
    assert set(_groups(rule="none")[1]) == {"alone"}


def test_visits_of_the_users_table_stand():
    known = [None, "mine", *[None] * 6]
    names, how = _groups(known=known)
    assert names[1] == "mine"
    assert names[0] == names[2] == "x 2024-05-01 22:09:00"
    assert how[1] == "table"


def test_a_name_that_is_no_text_is_told_escaped(tmp_path):
    (tmp_path / "good.jpg").write_bytes(_jpeg())
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb") as stream:  # noqa: PTH123
        stream.write(_jpeg())
    found = find_photos([tmp_path])
    assert found.paths == ("good.jpg",)
    assert [name.rpartition("/")[2] for name in found.unnamed] == ["caf\\xe9.jpg"]


def test_a_device_and_a_pipe_are_no_photographs(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    found = find_photos([tmp_path])
    for path in found.paths:
        with pytest.raises(ImageError, match="a pipe or a socket, not a file"):
            read_bytes(found.root, path)
    with pytest.raises(ImageError, match="not a photograph but a device"):
        find_photos([tmp_path / "pipe.jpg"])


def test_a_file_beyond_all_photographs_is_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as stream:
        stream.truncate(2**31 + 1)
    with pytest.raises(ImageError, match="it has 2147483649 bytes"):
        read_bytes(str(tmp_path), "large.jpg")


def test_a_phones_photograph_is_named_where_it_cannot_be_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(ImageError, match="HEIC photograph"):
        taken_at(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200))


def test_a_small_file_takes_little_memory_to_read(tmp_path):
    file = tmp_path / "small.jpg"
    file.write_bytes(b"x" * 1000)
    tracemalloc.start()
    assert len(read_regular(str(file))) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
