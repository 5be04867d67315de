"""Where animals are on photographs, and when those were taken, for exports."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.data.exports.placed import moments_of, placed
from exreid.data.imports.photographs import PhotoSize
from exreid.data.masks import encode_mask

ROW = {"image_id": "a.jpg", "path": "a.jpg", "mask": None, "bbox": None, "visit": None,
       "site": None, "viewpoint": None}  # fmt: skip


def _edges(one):
    return (one.box.left, one.box.top, one.box.right, one.box.bottom)


def test_a_mask_on_the_stored_pixels_gives_a_box_on_the_displayed_ones():
    """By hand: stored 60 x 40, displayed 40 x 60 after a quarter turn clockwise (orientation 6), in
    which the stored pixel (x, y) is at (39 - y, x)."""
    stored = np.zeros((40, 60), bool)
    stored[5:15, 20:50] = True
    one = placed({**ROW, "mask": encode_mask(stored)}, PhotoSize((40, 60), 6), [])
    assert _edges(one) == (25, 20, 35, 50)
    assert one.drawn
    assert one.mask_px == 300
    assert one.mask["size"] == [40, 60]


def test_boxes_in_fractions_and_turned_ones():
    box = '{"xywh_norm": [0.25, 0.5, 0.5, 0.25], "theta": 0.5}'
    one = placed({**ROW, "bbox": box}, PhotoSize((80, 40), 1), [])
    assert _edges(one) == (20, 20, 60, 30)
    assert one.box.theta_rad == 0.5
    assert not one.drawn


def test_a_mask_that_cannot_be_read_is_told():
    unread = []
    one = placed({**ROW, "mask": "no mask"}, PhotoSize((80, 40), 1), unread)
    assert one.mask is None
    assert one.box is None
    assert len(unread) == 1
    assert unread[0].startswith("a.jpg: ")


@pytest.mark.parametrize(
    ("told", "taken", "moment", "has_time"),
    [
        (None, "2024:05:01 22:10:05", datetime(2024, 5, 1, 22, 10, 5), True),
        ("2024-05-01", "2024:05:01 22:10:05", datetime(2024, 5, 1, 22, 10, 5), True),
        ("2024-05-02", "2024:05:01 22:10:05", datetime(2024, 5, 2), False),
        ("2024-05-01 07:00:00", "2024:05:01 22:10:05", datetime(2024, 5, 1, 7), True),
        ("2024-05-01", None, datetime(2024, 5, 1), False),
        (None, None, None, False),
    ],
)
def test_the_cameras_clock_where_the_table_has_a_day_alone(tmp_path, told, taken, moment, has_time):
    exif = Image.Exif()
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    for date in {told, told and pd.Timestamp(told)}:
        assert moments_of(str(tmp_path), [{"path": "a.jpg", "date": date}]) == [(moment, has_time)]
