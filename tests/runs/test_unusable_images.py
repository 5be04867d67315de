"""Photographs and rows that cannot be used: who is left with none says why, others go on."""

import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.data.synthetic import write_dataset
from exreid.errors import ExreidError, GalleryError, MetadataError
from exreid.pipeline.inputs import read_images
from exreid.runs.extract import run_extract
from exreid.runs.finetune import run_finetune
from exreid.runs.gallery_build import build_gallery
from exreid.runs.probe import run_probe
from exreid.runs.validate import run_validate

OPTIONS = ["ray.num_actors=0", "dataset.image_size=64", "benchmark.bootstrap_resamples=0"]
OPTIONS += ["dataset.on_error=skip"]
TRAIN = ["ray.num_workers=0", "train.epochs=1", "model.type=timm:test_vit", "dataset.image_size=64"]
TRAIN += ["model.pretrained=false", "dataset.on_error=skip", "safety=off"]


@pytest.fixture
def data(tmp_path):
    write_dataset(tmp_path / "data", identities=4, images_per_identity=4, seed=3)
    return tmp_path / "data"


def _rows(data):
    file = next(data.glob("*Real.csv"))
    return file, pd.read_csv(file, dtype=str, keep_default_na=False)


def _config(data, *more, model=ProbeConfig, options=OPTIONS):
    keys = [f"dataset.root={data}", f"output.root={data.parent}", *options, *more]
    return load_config(model, None, keys)


def _spoil(data, split=None):
    _, rows = _rows(data)
    bad = rows if split is None else rows[rows["split-time_closed"] == split]
    for path in bad["path"]:
        (data / path).write_text("version https://git-lfs.github.com/spec/v1\n")
    return len(bad)


def test_one_side_unreadable_is_said_with_its_reason(data):
    count = _spoil(data, "test")
    says = rf"no image of the split 'test' is left.*{count} images were left out: .*Git LFS"
    for safety in ("safety=off", "safety=warn"):
        with pytest.raises(MetadataError, match=says):
            run_probe(_config(data, safety))
    found = run_validate(_config(data))
    assert f"none of the {count} images of the split 'test' can be used" in found.problems


def test_all_unreadable_is_said_by_every_stage(data, tmp_path):
    count = _spoil(data)
    says = r"(\d+) images were left out: \1 such as line 2, .*Git LFS pointer"
    stages = (
        lambda: run_probe(_config(data)),
        lambda: run_extract(_config(data), tmp_path / "e.parquet"),
        lambda: build_gallery(_config(data), tmp_path / "gallery"),
        lambda: run_finetune(_config(data, model=FinetuneConfig, options=TRAIN)),
    )
    for stage in stages:
        with pytest.raises(ExreidError, match=says):
            stage()
    assert len(run_validate(_config(data)).problems) == count + 2


def test_rows_that_are_all_bad_are_said(data):
    file, rows = _rows(data)
    rows.loc[rows["split-time_closed"] == "test", "unique_name"] = "unknown"
    rows.to_csv(file, index=False)
    with pytest.raises(MetadataError, match="'test' is left.*unique_name is not known"):
        run_probe(_config(data))


def test_a_gallery_of_one_split_needs_no_names_in_others(data, tmp_path):
    file, rows = _rows(data)
    rows.loc[rows["split-time_closed"] == "test", "unique_name"] = ""
    rows.to_csv(file, index=False)
    config = _config(data, "dataset.on_error=raise", "benchmark.open_set.enabled=false")
    built = build_gallery(config, tmp_path / "gallery", split="train", thumbnail_px=0)
    assert built.added == (rows["split-time_closed"] == "train").sum()


def _copied(data, mask="same"):
    """A gallery photograph once more, under another name and animal."""
    file, rows = _rows(data)
    train = rows[rows["split-time_closed"] == "train"]
    first, other = (
        train.iloc[0],
        train[train["unique_name"] != train.iloc[0]["unique_name"]].iloc[0],
    )
    (data / "copy.png").write_bytes((data / first["path"]).read_bytes())
    row = {**first, "path": "copy.png", "unique_name": other["unique_name"], "encounter": "zz"}
    if mask != "same":
        row["mask"] = mask
    pd.concat([rows, pd.DataFrame([row])]).to_csv(file, index=False)


def test_one_photograph_under_two_animals_is_no_gallery(data, tmp_path):
    _copied(data)
    config = _config(data, "benchmark.open_set.enabled=false")
    with pytest.raises(GalleryError, match=r"1 photograph is under two animals:\n.*copy.png"):
        build_gallery(config, tmp_path / "gallery", thumbnail_px=0)
    assert not (tmp_path / "gallery").exists()
    _, result = run_probe(_config(data, "safety=warn"))
    assert result.leaks["copies_under_two_animals"] == 1


def test_similar_names_stop_a_strict_run(data):
    file, rows = _rows(data)
    rows.loc[0, "unique_name"] = rows["unique_name"][0].upper()
    rows.to_csv(file, index=False)
    with pytest.raises(MetadataError, match="safety=strict stops here.\n.*only by case"):
        read_images(_config(data, "safety=strict"))
    read_images(_config(data, "safety=off"))
    for safety, place in (("strict", "problems"), ("warn", "warnings")):
        found = run_validate(_config(data, f"safety={safety}"), decode=False)
        assert sum("differ only by case" in line for line in getattr(found, place)) == 1


def test_validate_does_not_call_warnings_nothing(data, capsys):
    _copied(data)
    words = [f"dataset.root={data}", f"output.root={data.parent}", "ray.num_actors=0"]
    assert main(["validate", *words]) == 0
    shown = capsys.readouterr().out
    assert "under two animals" in shown
    assert "No problems found" not in shown
    assert shown.rstrip().endswith("warnings.") or shown.rstrip().endswith("1 warning.")


@pytest.mark.parametrize("wish", ["crop_to_mask", "no_background"])
def test_rows_without_a_mask_are_what_no_mask_says(data, wish):
    file, rows = _rows(data)
    rows.loc[0, "mask"] = ""
    rows.to_csv(file, index=False)
    wish = f"dataset.{wish}=true"
    with pytest.raises(ExreidError, match="it has no mask"):
        run_probe(_config(data, wish, "dataset.on_error=raise"))
    strict = "dataset.on_error=raise"
    _, skipped = run_probe(_config(data, wish, strict, "dataset.no_mask=skip"))
    assert skipped.counts["left_out_by_stage"] == {"mask": 1}
    _, whole = run_probe(_config(data, wish, strict, "dataset.no_mask=whole"))
    assert whole.counts["images_left_out"] == 0
