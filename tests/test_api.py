"""exreid from Python gives what the commands give, and leaves nothing behind."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco

import exreid
from exreid.cli import main
from exreid.errors import ConfigError, ExreidError, MaskError, RunError

KEYS = {
    "dataset.image_size": 96,
    "dataset.split_col": "split-time_open",
    "dataset.encounter_cols": ["source", "encounter"],
    "benchmark.bootstrap_resamples": 0,
    "ray.num_actors": 0,
}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("exreid", "[]"),
        ("exreid.metrics", "['numpy']"),
        ("exreid.api", "['numpy', 'pandas', 'pyarrow', 'pydantic']"),
        # Tasks of Ray that decode images have it, as many as there are CPUs.
        ("exreid.features.fill_cache", "['numpy', 'pandas', 'pyarrow', 'pydantic']"),
    ],
)
def test_an_import_pulls_in_no_more_than_it_needs(module, needed):
    heavy = {"numpy", "pandas", "pyarrow", "pydantic", "ray", "timm", "torch", "matplotlib"}
    line = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == needed


def test_a_probe_is_the_commands_and_leaves_nothing(few, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    measured = exreid.probe(keys={"dataset.root": few, **KEYS})
    assert list((tmp_path / "here").iterdir()) == []
    assert capsys.readouterr().out == ""

    typed = [f"{key}={value}".replace("'", "") for key, value in KEYS.items()]
    out = tmp_path / "out"
    assert main(["probe", f"dataset.root={few}", f"output.root={out}", *typed]) == 0
    (rankings,) = out.rglob("rankings.parquet")
    pd.testing.assert_frame_equal(measured.rankings, pd.read_parquet(rankings), check_exact=True)
    assert "top_1" in measured._repr_html_()


def test_vectors_are_those_of_extract_whatever_a_photograph_is_given_as(few, tmp_path):
    out = tmp_path / "v.parquet"
    typed = [f"output.root={tmp_path}", "ray.num_actors=0", "dataset.image_size=96"]
    assert main(["extract", f"dataset.root={few}", "--out", str(out), *typed]) == 0
    frame = pd.read_parquet(out).head(3)
    files = [few / name for name in frame["image_id"]]
    opened = Image.open(files[2])
    given = [str(files[0]), files[1], opened]
    vectors_ND = exreid.embed(given, {"dataset.image_size": 96, "dataset.reduced_decode": False})
    assert np.array_equal(vectors_ND[:2], np.stack(frame["vector"])[:2])
    as_array = exreid.embed([np.asarray(opened)], {"dataset.image_size": 96})
    assert np.array_equal(as_array[0], vectors_ND[2])
    assert exreid.embed([]).shape == (0, 0)


def test_a_photograph_matches_its_shifted_self(few):
    picture = Image.open(sorted(few.rglob("*.jpg"))[0]).convert("RGB")
    shifted = Image.new("RGB", picture.size)
    shifted.paste(picture, (24, 16))
    keys = {"benchmark.local_size": 256, "benchmark.local_top_k": 128}
    matches = exreid.match(picture, shifted, keys)
    sure = matches[matches["confidence"] > 0.5]
    assert len(sure) > 20
    assert abs(np.median(sure["second_x"] - sure["first_x"]) - 24) < 2
    assert abs(np.median(sure["second_y"] - sure["first_y"]) - 16) < 2
    assert (np.diff(matches["confidence"]) <= 0).all()


def _decoded(text):
    return coco.decode(json.loads(text)).astype(bool)


@pytest.mark.parametrize("use", ["filter", "none"])
def test_matches_of_a_pair_are_its_score_in_a_probe(few, use):
    keys = {"benchmark.local_size": 128, "benchmark.local_top_k": 64, "benchmark.local_masks": use}
    asked = {**KEYS, **keys, "dataset.root": few, "benchmark.method": "local_lightglue"}
    rankings = exreid.probe(keys=asked).rankings
    images = exreid.load_images(keys=asked).set_index("image_id")
    for row in rankings.sort_values("score", ascending=False).head(3).itertuples():
        pair = images.loc[[row.query_id, row.gallery_id]]
        masks = [json.loads(pair["mask"].iloc[0]), _decoded(pair["mask"].iloc[1])]
        matches = exreid.match(*pair["path"], keys, masks=masks)
        assert (matches["confidence"] > 0.5).sum() == row.score > 0


def test_masks_are_seen_by_all(few):
    row = exreid.load_images(keys={"dataset.root": few}).iloc[0]
    inside_HW = _decoded(row["mask"])
    keys = {"benchmark.local_size": 256, "benchmark.local_top_k": 64}
    (found,) = exreid.local_features(row["path"], keys, masks=inside_HW)
    x, y = found.keypoints_K2.round().astype(int).T
    assert inside_HW[y.clip(0, len(inside_HW) - 1), x].mean() > 0.9
    (anywhere,) = exreid.local_features(row["path"], keys)
    assert not np.array_equal(anywhere.keypoints_K2, found.keypoints_K2)
    size = {"dataset.image_size": 64}
    whole = exreid.embed(row["path"], size, masks=row["mask"])
    assert np.array_equal(whole, exreid.embed(row["path"], size))
    cropped = exreid.embed(row["path"], {**size, "dataset.crop": "mask"}, masks=row["mask"])
    assert not np.array_equal(cropped, whole)
    for masks, message in (([None] * 2, "2 masks for 1"), (np.zeros((3, 3)), "mask|size")):
        with pytest.raises(MaskError, match=message):
            exreid.local_features(row["path"], keys, masks=masks)
    with pytest.raises(MaskError, match="no mask"):
        exreid.embed(row["path"], {**size, "dataset.crop": "mask"})
    with pytest.raises(ConfigError, match=r"dataset\.crop=mask"):
        exreid.match(row["path"], row["path"], {**keys, "dataset.crop": "mask"})


def test_a_gallery_is_built_and_a_report_drawn(few, tmp_path):
    keys = {"dataset.root": few, **KEYS}
    practice = {"benchmark.open_set.queries": 10, "benchmark.method": "cosine"}
    gallery = exreid.Gallery.build(tmp_path / "g", keys={**keys, **practice})
    assert len(gallery) == 16
    assert gallery.quality.startswith("Verdict: ")
    kept = exreid.probe(keys=keys, output_dir=tmp_path)
    assert kept.report().is_file()
    assert kept.folder.is_relative_to(tmp_path)
    with pytest.raises(RunError, match="output_dir"):
        exreid.Probe(kept.result, kept.rankings, None).report()


def test_a_wrong_key_is_an_exception(few):
    with pytest.raises(ConfigError, match="dataset"):
        exreid.probe(keys={"dataset.rot": few})
    with pytest.raises(ConfigError, match=r"output\.root: .*output_dir"):
        exreid.probe(keys={"dataset.root": few, "output.root": "here"})
    with pytest.raises(ConfigError, match=r"benchmark\.cache: .*cache"):
        exreid.probe(keys={"dataset.root": few, "benchmark.cache": "here"})


def test_photographs_are_identified_as_by_the_command(few, tmp_path, monkeypatch):
    gallery, typed = tmp_path / "gallery", [f"{k}={v}".replace("'", "") for k, v in KEYS.items()]
    build = ["gallery", "build", f"dataset.root={few}", "--out", str(gallery)]
    build += ["benchmark.method=cosine"]
    assert main([*build, f"output.root={tmp_path / 'built'}", *typed]) == 0
    photos = sorted(few.rglob("*.jpg"))[:3]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = exreid.Gallery.open(gallery).identify(photos)
    assert list((tmp_path / "here").iterdir()) == []

    table, out = tmp_path / "found.csv", f"output.root={tmp_path / 'asked'}"
    main(["identify", *map(str, photos), "--gallery", str(gallery), "--csv", str(table), out])
    found.to_csv(tmp_path / "mine.csv", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "mine.csv"), pd.read_csv(table))
    assert len(found) == 3


def test_a_folder_that_is_no_gallery_is_an_exception(tmp_path):
    with pytest.raises(ExreidError, match=str(tmp_path)):
        exreid.Gallery.open(tmp_path)
