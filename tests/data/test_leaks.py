"""What a split gives away, counted by hand."""

import numpy as np

from exreid.data.leaks import copy_leaks, encounter_leaks, partner_leaks
from exreid.records import RetrievalSide

NAMES = ["e0", "e0", "e1", "e1", "e2", None, None, "e3"]
IDENTITY = np.array([0, 0, 0, 1, 1, 2, 2, 3])
ENCOUNTER = np.array([0, 0, 1, 1, 2, -1, -1, 3])


def _side(*positions):
    index = np.array(positions)
    ids = tuple(f"i{p}" for p in positions)
    return RetrievalSide(ids, index, IDENTITY[index], ENCOUNTER[index])


QUERIES, GALLERY = _side(0, 2, 5), _side(1, 3, 4, 7)


def _lines(leaks):
    return [(leak.kind, leak.query_id, leak.gallery_id, leak.detail) for leak in leaks.found]


def test_cut_encounters():
    leaks = encounter_leaks(QUERIES, GALLERY, NAMES)
    assert _lines(leaks) == [
        ("cut_encounter", "i0", "i1", "e0: 1 query, 1 gallery"),
        ("cut_encounter", "i2", "i3", "e1: 1 query, 1 gallery"),
    ]
    assert leaks.counts == {"cut_encounters": 2, "queries_of_cut_encounters": 2}
    alone = _side(4, 5, 7)
    assert encounter_leaks(alone, alone, NAMES).counts["cut_encounters"] == 0, "its own image"
    both = _side(0, 1, 4)
    assert encounter_leaks(both, both, NAMES).counts["queries_of_cut_encounters"] == 2


def test_partners():
    leaks = partner_leaks(QUERIES, GALLERY, list("aaabbccd"), same_encounter=True)
    assert _lines(leaks) == [("no_partner", "i5", "", "c")]
    assert leaks.counts == {
        "queries_without_partner": 1,
        "animals_without_partner": 1,
        "animals_of_the_gallery_alone": 2,
    }
    # Animal a's only gallery image is of i0's own encounter; i2 is of another one.
    leaks = partner_leaks(QUERIES, GALLERY, list("aaabbccd"), same_encounter=False)
    assert [line[1] for line in _lines(leaks)] == ["i0", "i5"]
    side = _side(0, 1, 4)
    leaks = partner_leaks(side, side, list("aaabbccd"), same_encounter=True)
    assert [line[1] for line in _lines(leaks)] == ["i4"], "an image is no partner of its own"


def test_copies():
    files = {0: "x", 2: "y", 5: "z", 1: "x", 3: "z", 4: "z", 7: "w"}
    names = [[files[p] for p in side.position_N] for side in (QUERIES, GALLERY)]
    pairs = np.array([[1, 0], [1, 1], [2, 0], [2, 1]])  # i2-i1, i2-i3, i5-i1, i5-i3 (same file)
    leaks = copy_leaks(QUERIES, GALLERY, *names, pairs, same_encounter=True)
    assert _lines(leaks) == [
        ("same_file", "i0", "i1", ""),
        ("same_picture", "i2", "i1", ""),
        ("same_picture_in_encounter", "i2", "i3", "of another animal by its label"),
        ("same_file", "i5", "i3", "and 1 more; of another animal by its label"),
        ("same_picture", "i5", "i1", "of another animal by its label"),
        ("duplicate_gallery", "", "i4", "the same file as i3"),
    ]
    assert leaks.counts == {
        "queries_same_file": 2,
        "queries_same_picture": 2,
        "queries_same_picture_in_encounter": 1,
        "copies_under_two_animals": 3,
        "duplicate_query_images": 0,
        "duplicate_gallery_images": 1,
    }
    # What stands in the same encounter is no answer, and gives nothing away.
    leaks = copy_leaks(QUERIES, GALLERY, *names, pairs, same_encounter=False)
    assert [line[:2] for line in _lines(leaks)] == [
        ("same_picture", "i2"),
        ("same_file", "i5"),
        ("same_picture", "i5"),
        ("duplicate_gallery", ""),
    ]


def test_copies_on_one_side_under_two_animals_are_counted():
    names = (["q"] * len(QUERIES), [f"g{i // 2}" for i in range(len(GALLERY))])
    leaks = copy_leaks(QUERIES, GALLERY, *names, np.zeros((0, 2), int), same_encounter=True)
    pairs = zip(GALLERY.identity_N[::2], GALLERY.identity_N[1::2], strict=False)
    queries = QUERIES.identity_N[1:] != QUERIES.identity_N[0]
    expected = sum(a != b for a, b in pairs) + queries.sum()
    assert leaks.counts["copies_under_two_animals"] == expected > 0


def test_animals_of_one_photograph_are_no_copies_and_a_copy_of_it_is_one_of_each():
    """Photographs a and b are the same file, and show animals 0 and 1 each; c shows 0 alone."""
    paths = ["a", "a", "b", "b", "c"]
    identity = np.array([0, 1, 1, 0, 0])
    ids = ("a#1", "a#2", "b#1", "b#2", "c")
    side = RetrievalSide(ids, np.arange(5), identity, np.full(5, -1))
    none = np.zeros((0, 2), int)
    alone = [side.take(np.array(places)) for places in ([0, 1], [4])]
    leaks = copy_leaks(*alone, ["x"] * 2, ["y"], none, same_encounter=True, path_N=paths)
    assert not leaks.found
    both = [side.take(np.array(places)) for places in ([0, 1], [2, 3])]
    leaks = copy_leaks(*both, ["x"] * 2, ["x"] * 2, none, same_encounter=True, path_N=paths)
    assert leaks.counts["queries_same_file"] == 2
    assert leaks.counts["copies_under_two_animals"] == 0
    leaks = copy_leaks(side.take(np.arange(4)), side.take(np.array([4])), ["x"] * 4, ["y"], none,
                       same_encounter=True, path_N=paths)  # fmt: skip
    assert _lines(leaks) == [
        ("duplicate_query", "b#1", "", "the same file as a#2"),
        ("duplicate_query", "b#2", "", "the same file as a#1"),
    ]
    assert leaks.counts["copies_under_two_animals"] == 0


def test_leave_one_out_copies_are_of_other_rows():
    side = _side(5, 6, 7)
    leaks = copy_leaks(side, side, *[["x", "x", "y"]] * 2, np.zeros((0, 2), int), same_encounter=1)
    assert [line[:3] for line in _lines(leaks)][:2] == [
        ("same_file", "i5", "i6"),
        ("same_file", "i6", "i5"),
    ]
