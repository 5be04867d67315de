"""Right and wrong can be told apart without colours."""

import numpy as np

from exreid.explain.canvas import shortened, text_width, wrapped
from exreid.explain.prediction import (
    RIGHT,
    WRONG,
    CaptionedImage,
    draw_contact_sheet,
    draw_predictions,
)

IMAGE = np.full((30, 40, 3), 128, np.uint8)
QUERY = CaptionedImage(IMAGE, "Luna", is_query=True)


def _grey(is_match):
    shown = CaptionedImage(IMAGE, "1. Luna", is_match=is_match)
    picture = draw_predictions("", [QUERY, shown])
    dark = picture @ np.array([0.299, 0.587, 0.114])
    return dark[:, dark.shape[1] // 2 :]


def test_right_wrong_and_unknown_differ_in_shape_not_only_in_colour():
    pictures = {name: _grey(name) < 200 for name in (True, False, None)}
    for first, second in ((True, False), (True, None), (False, None)):
        differing = (pictures[first] != pictures[second]).mean()
        assert differing > 0.005, (first, second)


def test_the_two_colours_stay_apart_for_every_kind_of_colour_blindness():
    # Machado, Oliveira & Fernandes 2009, severity 1.0: protanopia, deuteranopia, tritanopia.
    kinds = [
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    ]
    linear = [(np.array(colour) / 255) ** 2.2 for colour in (RIGHT, WRONG)]
    for kind in kinds:
        seen = [255 * np.clip(np.array(kind) @ one, 0, 1) ** (1 / 2.2) for one in linear]
        assert np.linalg.norm(seen[0] - seen[1]) > 80


def test_a_query_and_six_candidates_stand_in_one_row_and_more_in_further_ones():
    wrong = [CaptionedImage(IMAGE, str(rank), is_match=False) for rank in range(1, 6)]
    five = draw_predictions("Wrong", [QUERY, *wrong])
    six = draw_predictions("Wrong", [QUERY, *wrong, wrong[0]])
    assert six.shape[0] == five.shape[0]
    assert six.shape[1] > five.shape[1]
    assert draw_predictions("Wrong", [QUERY, *wrong, *wrong]).shape[0] > 1.6 * five.shape[0]


def test_an_empty_sheet_says_so_and_a_full_one_holds_every_pair():
    empty = draw_contact_sheet("Failures", [])
    assert (empty < 128).any()
    pair = ("0.9", QUERY, CaptionedImage(IMAGE, "1. Mira", is_match=False))
    four = draw_contact_sheet("Failures", [pair] * 4, columns=3)
    photographs = np.all(four == 128, axis=2).sum()
    one = np.all(draw_contact_sheet("Failures", [pair], columns=3) == 128, axis=2).sum()
    assert photographs == 4 * one > 0


def test_long_paths_are_cut_in_front_and_words_wrap():
    path = "CzechLynx/source/lynx_0003/00041_lynx_0003.jpg"
    short = shortened(path, 150, 13)
    assert text_width(short, 13) <= 150
    assert short.startswith("…")
    assert short.endswith("41_lynx_0003.jpg")
    named = shortened(f"Zita · {path}", 180, 13)
    assert named.startswith("Zita · …")
    assert named.endswith("_lynx_0003.jpg")
    word = shortened("a-long-name-without-a-folder-0017", 120, 13)
    assert word.startswith("a-l")
    assert word.endswith("17")
    lines = wrapped("one two three four five six seven", 80, 13)
    assert len(lines) > 1
    assert " ".join(lines) == "one two three four five six seven"
    assert all(text_width(line, 13) <= 80 for line in lines)
