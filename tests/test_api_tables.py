"""DataFrames, arrays and images of Pillow's are taken like tables and files on disk."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import exreid
from exreid.api.photographs import file_of
from exreid.errors import ConfigError, ImageError, MetadataError

SIZE = {"dataset.image_size": 96, "benchmark.bootstrap_resamples": 0}
TABLE = {**SIZE, "dataset.split_col": "split-time_open"}
SMALL = {"benchmark.local_size": 128, "benchmark.local_top_k": 32}


@pytest.fixture(scope="module")
def table(few):
    """The metadata as it is read by pandas."""
    (file,) = few.glob("*.csv")
    return pd.read_csv(file)


@pytest.fixture(scope="module")
def measured(few):
    return exreid.probe(keys={"dataset.root": few, **TABLE})


@pytest.fixture(scope="module")
def gallery(few, tmp_path_factory):
    keys = {"dataset.root": few, **SIZE, "dataset.encounter_cols": ["source", "encounter"]}
    keys["benchmark.method"] = "cosine"
    return exreid.Gallery.build(tmp_path_factory.mktemp("g") / "gallery", keys=keys)


def test_a_table_in_memory_gives_the_numbers_of_its_file(few, table, measured):
    of_frame = exreid.probe(table=table, keys={"dataset.root": few, **TABLE})
    pd.testing.assert_frame_equal(of_frame.rankings, measured.rankings, check_exact=True)
    assert of_frame.result.metrics == measured.result.metrics


def test_loaded_images_are_a_table_of_their_own(few, table, measured):
    images = exreid.load_images(keys={"dataset.root": few, **TABLE})
    assert list(images["identity"]) == list(table["unique_name"])
    assert list(images["split"]) == list(table["split-time_open"])
    assert all(Image.open(path).size for path in images["path"])
    again = exreid.probe(table=images, keys=SIZE)
    assert again.result.metrics == measured.result.metrics
    without = images.drop(columns="split")
    assert exreid.load_images(table=without)["split"].isna().all()
    with pytest.raises(MetadataError, match=r"split-time_closed"):
        exreid.probe(table=without, keys=SIZE)


def test_a_report_of_a_kept_probe_reads_its_table_again(few, table, tmp_path):
    keys = {"dataset.root": few, **TABLE}
    kept = exreid.probe(table=table, keys=keys, output_dir=tmp_path / "out")
    assert kept.report().is_file()


def test_a_bad_row_of_a_table_is_named(few, table):
    broken = table.assign(path=["gone.jpg", *table["path"][1:]])
    with pytest.raises(MetadataError, match=r"line 2: .*gone\.jpg"):
        exreid.probe(table=broken, keys={"dataset.root": few, **TABLE})
    keys = {"dataset.root": few, **TABLE, "dataset.on_error": "skip"}
    images = exreid.load_images(table=broken, keys=keys)
    assert len(images) == len(table) - 1
    assert "gone.jpg" in images.attrs["rejected"][0]
    with pytest.raises(ConfigError, match="name one of them"):
        exreid.probe(table=table, keys={"dataset.root": few, "dataset.metadata_file": "a.csv"})
    with pytest.raises(MetadataError, match="'path'"):
        exreid.probe(table=table.drop(columns="path"), keys={"dataset.root": few, **TABLE})


def test_masks_and_boxes_may_be_python_objects(few, table):
    masks = [json.loads(mask) for mask in table["mask"]]
    as_objects = table.assign(mask=masks, bbox=[[1, 2, 30, 40]] * len(table))
    images = exreid.load_images(table=as_objects, keys={"dataset.root": few, **TABLE})
    assert [json.loads(mask) for mask in images["mask"]] == masks
    assert json.loads(images["bbox"][0]) == [1, 2, 30, 40]


def test_a_gallery_of_a_table_is_that_of_its_file(few, table, gallery, tmp_path):
    keys = {"dataset.root": few, **SIZE, "dataset.encounter_cols": ["source", "encounter"]}
    keys["benchmark.method"] = "cosine"
    built = exreid.Gallery.build(tmp_path / "g", table=table, keys=keys)
    assert len(built) == len(gallery)
    photos = sorted(few.rglob("*.jpg"))[:2]
    pd.testing.assert_frame_equal(built.identify(photos), gallery.identify(photos))


def test_arrays_and_pillows_images_are_identified_as_their_files(few, gallery, tmp_path):
    file = sorted(few.rglob("*.jpg"))[0]
    array_HWC = np.asarray(Image.open(file).convert("RGB"))[4:, 6:]  # new to the gallery
    Image.fromarray(array_HWC).save(tmp_path / "image_0.png")
    (tmp_path / "here").mkdir()
    of_file = gallery.identify(tmp_path / "image_0.png")
    for given in (array_HWC, [array_HWC], Image.fromarray(array_HWC)):
        pd.testing.assert_frame_equal(gallery.identify(given), of_file)
    found = gallery.identify(np.stack([array_HWC, array_HWC[:, ::-1]]))
    assert list(found["photo"]) == ["image_0.png", "image_1.png"]
    with pytest.raises(ImageError, match="no photograph was given"):
        gallery.identify([])
    with pytest.raises(ConfigError, match="either paths"):
        gallery.identify([file, array_HWC])
    with pytest.raises(ImageError, match="image 1: .*uint8.*float64"):
        gallery.identify([array_HWC, array_HWC / 255])


def test_a_table_says_more_of_photographs(few, gallery, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, path in zip(sorted(few.rglob("*.jpg")), paths, strict=False):
        Image.fromarray(np.asarray(Image.open(file).convert("RGB"))[4:]).save(path)
    photos = pd.DataFrame({"path": paths})
    alone = gallery.identify(photos)
    assert list(alone["status"]) == ["answered"] * 2
    assert alone["visit"].isna().all()
    together = gallery.identify(photos.assign(source="here", encounter="one night"))
    assert together["visit"].notna().all()
    assert together["visit"].nunique() == 1
    with pytest.raises(MetadataError, match="each row needs a path"):
        gallery.identify(photos.assign(path=[paths[0], None]))


def test_a_turned_photograph_is_seen_as_people_see_it(few, tmp_path):
    upright = Image.open(sorted(few.rglob("*.jpg"))[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x9003] = 6, "2024:05:01 22:00:00"
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    opened = Image.open(tmp_path / "turned.png")
    written = Image.open(io.BytesIO(file_of(opened)))
    assert np.array_equal(np.asarray(written), np.asarray(upright))
    assert written.getexif().get(0x0112, 1) == 1
    vectors_ND = exreid.embed([opened, tmp_path / "turned.png"], {"dataset.image_size": 64})
    assert np.array_equal(vectors_ND[0], vectors_ND[1])


def test_an_unreadable_photograph_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    for call in (exreid.embed, exreid.local_features):
        with pytest.raises(ImageError, match=r"text\.jpg"):
            call([tmp_path / "text.jpg"], {"dataset.image_size": 64})
    with pytest.raises(ImageError, match="image 0: int is not a photograph"):
        exreid.embed([3])


@pytest.mark.parametrize("name", ["aliked-n16", "disk", "sift"])
def test_keypoints_come_with_descriptors_and_falling_scores(few, name):
    file = sorted(few.rglob("*.jpg"))[0]
    width, height = Image.open(file).size
    keys = {**SMALL, "benchmark.local_features": name}
    (found,) = exreid.local_features(file, keys)
    assert found.image_wh_px == (width, height)
    count = len(found)
    assert 0 < count <= 32
    assert found.descriptors_KL.shape == (count, 128)
    assert found.scores_K.shape == (count,)
    assert (np.diff(found.scores_K) <= 0).all()
    assert np.isfinite(found.scores_K).all()
    assert found.scores_K[0] != found.scores_K[-1]
    assert (found.keypoints_K2.min(axis=0) >= -1).all()
    assert (found.keypoints_K2 <= (width, height)).all()
    # The best keypoint is on the same place of a photograph of twice the size.
    larger = Image.open(file).resize((2 * width, 2 * height), Image.Resampling.NEAREST)
    (doubled,) = exreid.local_features(larger, keys)
    distance_K = np.linalg.norm(doubled.keypoints_K2 / 2 - found.keypoints_K2[0], axis=1)
    assert distance_K.min() < width / 20


def test_ranks_are_those_of_a_plain_product():
    rng = np.random.default_rng(0)
    queries_QD, gallery_GD = rng.normal(size=(5, 8)), rng.normal(size=(7, 8))

    def unit(vectors_ND):
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)

    cosine_QG = unit(queries_QD) @ unit(gallery_GD).T
    index_QK, cosine_QK = exreid.rank(queries_QD, gallery_GD, keep=3)
    assert np.array_equal(index_QK, np.argsort(-cosine_QG, axis=1)[:, :3])
    assert np.allclose(cosine_QK, -np.sort(-cosine_QG, axis=1)[:, :3], atol=1e-6)
    own_QQ = unit(queries_QD) @ unit(queries_QD).T - 9 * np.eye(5)
    index_QK, cosine_QK = exreid.rank(queries_QD)
    assert np.array_equal(index_QK[:, :4], np.argsort(-own_QQ, axis=1)[:, :4])
    assert (index_QK[:, 4] == -1).all()
    assert np.isnan(cosine_QK[:, 4]).all()


def test_nothing_of_it_prints_or_stays(few, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    exreid.local_features(sorted(few.rglob("*.jpg"))[0], SMALL)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
