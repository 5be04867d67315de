"""Copies of photographs: hashes against all pairs, what is a copy and what only seems so."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from exreid.data import copies
from exreid.data.copies import find_copies, is_blank, near_hashes, print_hashes, prints_agree
from exreid.features.prints import PRINT_PX, make_print


def _scene(seed, wh=(400, 300)):
    """A smooth scene with contrast, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(wh, Image.Resampling.BICUBIC)


def _bytes(image, quality=92):
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _prints(images):
    return np.stack([make_print(_bytes(image)) for image in images])


def test_hashes_are_the_signs_of_scipys_cosine_transform():
    prints = np.random.default_rng(0).integers(0, 256, (50, PRINT_PX, PRINT_PX), dtype=np.uint8)
    low = dctn(prints.astype(float), axes=(1, 2))[:, :8, :8].reshape(50, 64)
    # Scaled per frequency in scipy's own way, which changes the median: so by hand, unscaled.
    unscaled = low / 4
    bits = unscaled > np.median(unscaled[:, 1:], axis=1, keepdims=True)
    expected = [int("".join("1" if bit else "0" for bit in row), 2) for row in bits]
    assert print_hashes(prints).tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_near_hashes_are_exactly_those_of_all_pairs(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(copies, "BLOCK_CANDIDATES", 5000)
    query = rng.integers(0, 2**63, 150, dtype=np.uint64)
    gallery = query[rng.integers(0, 150, 400)].copy()
    for g in range(400):
        for bit in rng.choice(64, rng.integers(0, 12), replace=False):
            gallery[g] ^= np.uint64(1) << np.uint64(bit)
    distance = np.bitwise_count(query[:, None] ^ gallery[None, :])
    for nearest in (400, 2):
        expected = [
            [q, g]
            for q in range(150)
            for g in np.lexsort((np.arange(400), distance[q]))[:nearest].tolist()
            if distance[q, g] <= 7
        ]
        assert near_hashes(query, gallery, nearest).tolist() == expected


def test_a_thousand_equal_hashes_take_no_more_than_the_nearest():
    same = np.full(1000, 77, np.uint64)
    found = near_hashes(same, same, 5)
    assert found.tolist() == [[q, g] for q in range(1000) for g in range(5)]
    assert near_hashes(same[:0], same).shape == near_hashes(same, same[:0]).shape == (0, 2)


def _with_strip(image):
    changed = image.copy()
    changed.paste((0, 0, 0), (0, int(image.height * 0.93), image.width, image.height))
    return changed


CHANGED = {
    "jpeg": lambda image: Image.open(io.BytesIO(_bytes(image, 30))),
    "half": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "strip": _with_strip,
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_copy_is_found_among_others_whatever_was_done_to_it(name):
    scenes = [_scene(seed) for seed in range(30)]
    found = find_copies(_prints([CHANGED[name](one) for one in scenes[:10]]), _prints(scenes))
    assert found.tolist() == [[place, place] for place in range(10)]


def test_another_animal_before_the_same_background_is_no_copy():
    scene = _scene(0)
    shots = []
    for x in (60, 150, 250):
        shot = scene.copy()
        shot.paste((250, 240, 230) if x == 150 else (20, 20, 25), (x, 130, x + 22, 148))
        shots.append(shot)
    prints = _prints(shots)
    hashes = print_hashes(prints)
    assert max(int(np.bitwise_count(hashes[0] ^ other)) for other in hashes) <= 7, "alike"
    assert find_copies(prints, prints).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_black_frames_are_compared_with_none():
    rng = np.random.default_rng(0)
    frames = [
        Image.fromarray(rng.integers(0, 6, (300, 400, 3), dtype=np.uint8)).copy() for _ in range(4)
    ]
    for frame in frames:
        frame.paste((255, 255, 255), (10, 280, 200, 296))  # the camera's own strip
    prints = _prints(frames)
    assert is_blank(prints).all()
    assert len(find_copies(prints, prints)) == 0
    assert not is_blank(_prints([_scene(1)]))[0]


def test_brightness_and_contrast_do_not_count_and_one_cell_does():
    one = np.random.default_rng(1).integers(60, 180, (1, 32, 32)).astype(np.uint8)
    assert prints_agree(one, (one * 0.5 + 20).astype(np.uint8)).tolist() == [True]
    other = one.copy()
    other[0, 3, 4] = np.clip(int(one[0, 3, 4]) + 60, 0, 255)
    assert np.abs(other.astype(int) - one).max() > 40
    assert prints_agree(one, other).tolist() == [False]
