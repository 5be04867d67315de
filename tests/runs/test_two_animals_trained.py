"""Trainings on photographs of two animals: each row trains on its own animal, and on no other."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.data.image_files import load_image
from exreid.data.masks import decode_mask, encode_mask
from exreid.data.synthetic import METADATA_FILE
from exreid.pipeline import training_inputs
from exreid.pipeline.inputs import read_images
from exreid.pipeline.training_inputs import decode_images, first_backbone, hold_out
from exreid.runs.finetune import run_finetune
from exreid.training.history import read_history

TRAINING = [
    *("model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=6"),
    *("dataset.image_size=64", "train.epochs=2", "validation.source=split"),
    *("dataset.encounter_cols=[encounter]", "dataset.crop_margin=0", "train.deterministic=true"),
]


def _config(folder, out, *more):
    overrides = [f"dataset.root={folder}", f"output.root={out}", *TRAINING, *more]
    return load_config(FinetuneConfig, None, overrides)


def _trained(folder, out, *more):
    run, result = run_finetune(_config(folder, out, *more))
    return (
        run,
        result,
        [
            (row.metrics, row.training and (row.training.loss, row.training.images))
            for row in read_history(run)
        ],
    )


@pytest.fixture(scope="module")
def plain(side_by_side, tmp_path_factory):
    """Trained on the crops of boxes, in this process."""
    out = tmp_path_factory.mktemp("plain")
    return _trained(side_by_side / "both", out, "ray.num_workers=0")


def test_a_training_on_boxes_is_that_on_the_animals_cut_out_by_hand(plain, side_by_side, tmp_path):
    run, result, history = plain
    table = pd.read_csv(side_by_side / "both" / "metadata.csv")
    trained = (table["split-time_closed"] == "train").sum()
    assert result.counts["train_images"] == trained == 18
    assert result.counts["train_identities"] == 6
    split = pd.read_csv(run / "split.csv")
    assert split["image_id"].tolist() == table["image_id"].tolist()
    _, _, by_hand = _trained(side_by_side / "cut", tmp_path, "ray.num_workers=0")
    assert history == by_hand


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A red animal on the left and a blue one on the right of 320 x 120 grey pixels."""
    folder = tmp_path_factory.mktemp("painted")
    pixels = np.full((120, 320, 3), 128, np.uint8)
    red, blue = np.zeros((2, 120, 320), bool)
    red[20:100, 20:140], blue[20:100, 180:300] = True, True
    pixels[red], pixels[blue] = (255, 0, 0), (0, 0, 255)
    rows = []
    for number in range(4):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "test" if number == 3 else "train"
        for name, mask, x in (("red", red, 20), ("blue", blue, 180)):
            rows.append({
                "path": f"{number}.png", "unique_name": name, "encounter": number,
                "split-time_closed": split, "bbox": json.dumps([x, 20, 120, 80]),
                "mask": encode_mask(mask),
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    return folder


def _decoded(folder, out, *more, workers=0):
    """What a training sees of each row: uint8 (N, 64, 64, C), and the animals' names."""
    config = _config(folder, out, f"ray.num_workers={workers}", *more)
    table, _ = read_images(config)
    images = decode_images(
        table, hold_out(table, config), config, first_backbone(config),
        verbose=False, on_progress=lambda count: None,
    )  # fmt: skip
    places = np.arange(len(images.table))
    batch = images.source(places, in_process=True)().batches([places])
    return np.concatenate(list(batch)), images.table.rows["identity"].tolist()


def test_tasks_of_ray_decode_the_same_crops(side_by_side, local_ray, tmp_path, monkeypatch):
    here, names = _decoded(side_by_side / "both", tmp_path / "here")
    assert len(names) > len(set(names)), "several photographs of an animal"

    def refused(*arguments, **options):
        raise AssertionError("decoded in this process")

    monkeypatch.setattr(training_inputs, "fill_in_process", refused)
    monkeypatch.setattr(training_inputs, "FEW_TO_DECODE", 0)
    there, same = _decoded(side_by_side / "both", tmp_path / "there", workers=1)
    assert same == names
    np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize(
    "more", [["dataset.no_background=true", "dataset.crop=none"], ["dataset.crop=mask"]]
)
def test_a_rows_mask_leaves_the_other_animal_out(painted, tmp_path, more):
    images, names = _decoded(painted, tmp_path, *more)
    assert len(names) == 8
    for image, name in zip(images.astype(int), names, strict=True):
        red = (image[..., 0] - image[..., 2] > 100).sum()
        blue = (image[..., 2] - image[..., 0] > 100).sum()
        own, other = (red, blue) if name == "red" else (blue, red)
        assert other == 0
        assert own > 64 * 64 // 5


def test_a_random_background_needs_a_box_alone(painted, tmp_path):
    """By hand: a box of 120 of 320 and 80 of 120 pixels, in an image of 64 x 64."""
    table = pd.read_csv(painted / "metadata.csv")
    table = table[(table["unique_name"] == "red") == (table.index % 4 < 2)]
    table.to_csv(painted / "one.csv", index=False)
    images, names = _decoded(painted, tmp_path, "augment.background=1", "dataset.mask_col=null",
                             "dataset.crop=none", "dataset.resize=stretch",
                             "dataset.metadata_file=one.csv")  # fmt: skip
    assert names == ["red", "blue", "red", "blue"]
    for image, name in zip(images, names, strict=True):
        inside_HW = image[..., 3] >= 128
        left = 4 if name == "red" else 36
        expected = np.zeros((64, 64), bool)
        expected[round(64 * 20 / 120) : round(64 * 100 / 120), left : left + 24] = True
        np.testing.assert_array_equal(inside_HW, expected)
    _, result, _ = _trained(painted, tmp_path, "augment.background=0.5", "dataset.mask_col=null",
                            "ray.num_workers=0", "train.epochs=1")  # fmt: skip
    assert result.counts["train_images"] == 6


def test_synthetic_animals_walk_together(tmp_path):
    """Each has a half of the photograph, a mask in it, and the box around its mask."""
    words = ["--identities", "4", "--images-per-identity", "3", "--seed", "2"]
    assert main(["synth", "--out", str(tmp_path / "two"), *words, "--animals-per-photo", "2"]) == 0
    table = pd.read_csv(tmp_path / "two" / METADATA_FILE)
    assert len(table) == 12
    assert table["unique_name"].nunique() == 4
    assert (table.groupby("path")["unique_name"].nunique() == 2).all()
    for path, pair in table.groupby("path"):
        photo = load_image((tmp_path / "two" / path).read_bytes()).image
        assert photo.size == (1024, 384)
        left, right = (decode_mask(mask, photo.size) for mask in pair["mask"])
        assert not (left & right).any()
        assert left[:, :512].sum() == left.sum() > 1000
        assert right[:, 512:].sum() == right.sum() > 1000
        for mask, box in zip((left, right), pair["bbox"], strict=True):
            ys, xs = np.nonzero(mask)
            around = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert json.loads(box) == around
