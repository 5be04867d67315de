"""What carries a cosine: exact where pooling is a sum, gradients where it is not."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from exreid.errors import ExplanationError
from exreid.explain.pair_layout import ImagePair
from exreid.explain.regions import RegionReader
from exreid.explain.similarity import BY_GRADIENT, EXACT, explain_similarity
from exreid.explain.similarity_picture import draw_similarity, similarity_caption
from exreid.features.embedding import Embedder
from exreid.models.backbones import Backbone, GemPooled, build_backbone

SUMS = {
    "CNN, average": ("efficientnet-lite0", None),
    "CNN, norm after pooling": ("timm:convnext_atto", None),
    "Swin": ("timm:swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}),
    "ViT, averaged tokens": ("timm:vit_tiny_patch16_224", {"class_token": False, "depth": 3}),
}
NO_SUM = {
    "ViT, class token": "timm:vit_tiny_patch16_224",
    "CNN, layer after pooling": "timm:mobilenetv3_small_050",
}


@cache
def _lite0():
    return build_backbone("efficientnet-lite0")


def _backbone(name, options=None):
    torch.manual_seed(0)
    if name == "efficientnet-lite0":
        return _lite0()
    if options:
        import timm

        model = timm.create_model(
            name.removeprefix("timm:"), num_classes=0, global_pool="avg", img_size=96, **options
        )
        return Backbone(name, model.eval(), 96, (0.5,) * 3, (0.5,) * 3, 0.9, "bicubic", "crop")
    size = 96 if "vit" in name else None
    return build_backbone(name, pretrained=False, image_size=size)


def _images(backbone, seed=0):
    """Two blurry pictures that share a corner."""
    random = np.random.default_rng(seed)
    side = backbone.image_size
    images = [
        np.kron(random.integers(0, 255, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
        for _ in range(2)
    ]
    images[1][: side // 2, : side // 2] = images[0][: side // 2, : side // 2]
    return [image.astype(np.uint8) for image in images]


def _cosine(backbone, images):
    first, second = Embedder(backbone, batch_size=2)(np.stack(images)).astype(np.float64)
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


@pytest.mark.parametrize("kind", SUMS)
def test_contributions_sum_to_the_cosine_where_pooling_is_a_sum(kind):
    backbone = _backbone(*SUMS[kind])
    images = _images(backbone)
    found = explain_similarity(backbone, *images, most_pairs=1000)
    score = _cosine(backbone, images)
    assert found.sums_to_score
    assert found.method == EXACT
    assert found.score == pytest.approx(score, abs=1e-5)
    assert found.query_HW.sum() == pytest.approx(score, abs=1e-4)
    assert found.gallery_HW.sum() == pytest.approx(score, abs=1e-4)
    assert found.query_HW.std() > 1e-5, "places differ"


def test_gem_pooling_with_batch_norm_is_a_sum_too():
    import timm

    torch.manual_seed(0)
    trunk = timm.create_model("resnet18", num_classes=0)
    module = GemPooled(trunk, 512)
    module.bn.running_mean += torch.rand(512)
    module.bn.bias.data += torch.rand(512)
    backbone = Backbone("gem", module.eval(), 96, (0.5,) * 3, (0.5,) * 3, 1.0, "bicubic", "crop")
    images = _images(backbone)
    found = explain_similarity(backbone, *images)
    assert found.sums_to_score
    assert found.query_HW.sum() == pytest.approx(_cosine(backbone, images), abs=1e-4)


def test_average_pooling_by_hand():
    backbone = _backbone("efficientnet-lite0")
    images = _images(backbone)
    found = explain_similarity(backbone, *images, most_pairs=1000)
    pixels = (np.stack(images) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        features = (
            backbone.module.forward_features(
                torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)
            )
            .double()
            .numpy()
        )
    query_CHW, gallery_CHW = features
    pooled_q, pooled_g = (one.mean(axis=(1, 2)) for one in features)
    lengths = np.linalg.norm(pooled_q) * np.linalg.norm(pooled_g)
    for row in range(7):
        for column in range(7):
            by_hand = query_CHW[:, row, column] @ pooled_g / 49 / lengths
            assert found.query_HW[row, column] == pytest.approx(by_hand, abs=1e-6)
    # Each pair: mutually nearest by cosine, weighted by its share of the double sum.
    unit = [one.reshape(1280, 49).T for one in features]
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in unit]
    alike = unit[0] @ unit[1].T
    mutual = {
        (int(p), int(alike[p].argmax()))
        for p in range(49)
        if alike[:, alike[p].argmax()].argmax() == p
    }
    step = backbone.image_size / 7
    places = [
        tuple(int(n) for n in ((xy[:, 1] // step) * 7 + xy[:, 0] // step))
        for xy in (found.pairs.query_xy_R2, found.pairs.gallery_xy_R2)
    ]
    assert set(zip(*places, strict=True)) == mutual
    for p, r, weight in zip(*places, found.pairs.weight_R, strict=True):
        by_hand = query_CHW.reshape(1280, 49)[:, p] @ gallery_CHW.reshape(1280, 49)[:, r]
        assert weight == pytest.approx(by_hand / 49**2 / lengths, abs=1e-7)
    assert np.all(np.diff(found.pairs.weight_R) <= 0)


@pytest.mark.parametrize("kind", NO_SUM)
def test_other_heads_are_explained_by_gradients_and_say_so(kind):
    backbone = _backbone(NO_SUM[kind])
    images = _images(backbone)
    found = explain_similarity(backbone, *images)
    assert not found.sums_to_score
    assert found.method == BY_GRADIENT
    assert found.score == pytest.approx(_cosine(backbone, images), abs=1e-5)
    for map_HW in (found.query_HW, found.gallery_HW):
        assert map_HW[map_HW > 0].sum() == pytest.approx(1, abs=1e-4)
    assert "do not add up" in similarity_caption(found)


def test_a_gradient_is_the_change_of_the_embedding_when_a_place_grows():
    backbone = _backbone(NO_SUM["CNN, layer after pooling"])
    image, _ = _images(backbone)
    reader = RegionReader(backbone)
    direction = torch.nn.functional.normalize(torch.randn(1024), dim=0)
    gradient_L = reader.gradient(image, direction)
    with torch.inference_mode():
        features = backbone.module.double().forward_features(reader._pixels(image).double())
        for place in (0, 17, 48):
            moved = []
            for step in (1e-4, -1e-4):
                other = features.clone()
                other[..., place // 7, place % 7] *= 1 + step
                moved.append(backbone.module.forward_head(other)[0] @ direction.double())
            slope = float(moved[0] - moved[1]) / 2e-4
            assert float(gradient_L[place]) == pytest.approx(slope, rel=1e-2, abs=1e-7)


def test_a_class_tokens_gradient_falls_on_the_places_it_attends_to():
    backbone = _backbone(NO_SUM["ViT, class token"])
    image, _ = _images(backbone)
    last, direction = backbone.module.blocks[-1], torch.randn(192)
    with torch.no_grad():
        # The last block copies, by one head, only what the class token attends to.
        gradient_L = RegionReader(backbone).gradient(image, direction)
        last.attn.qkv.weight[2 * 192 :] = 0
        last.attn.qkv.bias[2 * 192 :] = 0
        nothing_L = RegionReader(backbone).gradient(image, direction)
    assert gradient_L.abs().max() > 1e-6
    assert nothing_L.abs().max() == 0, "without values no place reaches the class token"


def test_the_backbone_is_left_as_it_was_and_a_half_precise_one_is_explained_in_full():
    backbone = _backbone("efficientnet-lite0")
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    images = _images(backbone)
    full = explain_similarity(backbone, *images)
    assert all(torch.equal(before[n], v) for n, v in backbone.module.state_dict().items())
    backbone = replace(backbone, module=copy.deepcopy(backbone.module).to(torch.bfloat16))
    half = explain_similarity(backbone, *images)
    assert next(backbone.module.parameters()).dtype == torch.bfloat16
    assert half.sums_to_score
    assert half.score == pytest.approx(full.score, abs=0.02)


def test_a_network_without_places_is_refused_with_a_reason():
    class Plain(torch.nn.Linear):
        pass

    backbone = Backbone("plain", Plain(3, 3), 8, (0.5,) * 3, (0.5,) * 3, 1.0, "bicubic", "crop")
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ExplanationError, match="forward_features"):
        explain_similarity(backbone, image, image)


def test_the_picture_names_the_method_and_how_much_lies_on_the_animal():
    backbone = _backbone("efficientnet-lite0")
    images = _images(backbone)
    found = explain_similarity(backbone, *images)
    half = np.zeros(images[0].shape[:2], bool)
    half[:, : half.shape[1] // 2] = True
    overlay = draw_similarity(ImagePair(*images, half), found, width_px=2 * 224 + 6)
    assert EXACT in overlay.caption
    positive = np.maximum(found.query_HW, 0)
    share = (positive[:, :3].sum() + positive[:, 3].sum() / 2) / positive.sum()
    assert f"{100 * share:.0f}% on the animal in the query" in overlay.caption
    assert "takes 50% of the image" in overlay.caption
    top = next(y for y in range(60) if np.array_equal(overlay.image_rgb[y, :224], images[0][0]))
    assert np.array_equal(overlay.image_rgb[top : top + 224, :224], images[0])
