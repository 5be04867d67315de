"""Leak checks as a user meets them: warnings, the result, the file, and where strict stops."""

import io
import json
import logging

import pandas as pd
import pytest
from PIL import Image

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.data.synthetic import write_dataset
from exreid.errors import ConfigError, LeakError
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.runs.validate import run_validate

OPTIONS = ["ray.num_actors=0", "dataset.image_size=64", "benchmark.bootstrap_resamples=0"]
ENCOUNTERS = "dataset.encounter_cols=[source,encounter]"


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Seven animals: one query is a gallery image's file, one a coarser copy, one black frame
    stands on each side, one encounter is cut, one animal is in no gallery image."""
    folder = tmp_path_factory.mktemp("leaky") / "data"
    write_dataset(folder, identities=7, images_per_identity=6, seed=4)
    file = next(folder.glob("*Real.csv"))
    rows = pd.read_csv(file, dtype=str)
    test, train = (rows.index[rows["split-time_closed"] == v] for v in ("test", "train"))
    gallery, queries = train[:4], test[-4:]
    path = {i: folder / rows["path"][i] for i in rows.index}
    path[queries[0]].write_bytes(path[gallery[0]].read_bytes())
    image = Image.open(io.BytesIO(path[gallery[1]].read_bytes()))
    image.save(path[queries[1]], quality=30)
    for number, i in enumerate((queries[2], gallery[2])):
        Image.new("RGB", image.size, (number, 2, 1)).save(path[i])
    rows.loc[queries[3], ["source", "encounter"]] = rows.loc[train[-1], ["source", "encounter"]]
    lonely = rows["unique_name"][test[len(test) // 2]]
    rows = rows[(rows["unique_name"] != lonely) | (rows["split-time_closed"] == "test")]
    rows.to_csv(file, index=False)
    names = {"queries": rows["path"][queries].tolist(), "gallery": rows["path"][gallery].tolist()}
    return folder, names, rows[rows["unique_name"] == lonely]["path"].tolist()


def _config(dataset, out, *more, model=ProbeConfig):
    return load_config(model, None, [f"dataset.root={dataset}", f"output.root={out}", *more])


def test_a_probe_warns_counts_and_lists(leaky, tmp_path, caplog):
    dataset, names, lonely = leaky
    with caplog.at_level(logging.WARNING):
        folder, result = run_probe(_config(dataset, tmp_path, *OPTIONS, ENCOUNTERS))
    written = json.loads((folder / "result.json").read_text())["leaks"]
    assert written == result.leaks
    assert result.leaks["safety"] == "warn"
    expected = {
        "queries_same_file": 1,
        "queries_same_picture": 1,
        "queries_same_picture_in_encounter": 0,
        "cut_encounters": 1,
        "queries_without_partner": len(lonely),
        "animals_without_partner": 1,
        "copies_under_two_animals": 2,
        "duplicate_query_images": 0,
        "blank_images": 2,
    }
    assert {name: written[name] for name in expected} == expected
    rows = pd.read_csv(folder / "leaks.csv", keep_default_na=False)
    by_kind = rows.groupby("kind")
    pair = by_kind.get_group("same_file").iloc[0]
    assert (pair["query_id"], pair["gallery_id"]) == (names["queries"][0], names["gallery"][0])
    pair = by_kind.get_group("same_picture").iloc[0]
    assert (pair["query_id"], pair["gallery_id"]) == (names["queries"][1], names["gallery"][1])
    assert sorted(by_kind.get_group("no_partner")["query_id"]) == sorted(lonely)
    assert by_kind.get_group("cut_encounter")["query_id"].tolist() == [names["queries"][3]]
    lines = [r.getMessage() for r in caplog.records if r.name == "exreid.pipeline.check_leaks"]
    assert len(lines) == 5
    assert all(line.endswith("See leaks.csv") and "\n" not in line for line in lines)
    _, again = run_probe(_config(dataset, tmp_path, *OPTIONS, ENCOUNTERS, "benchmark.cache=off"))
    assert again.leaks == result.leaks, "without a cache"


def test_strict_stops_before_a_model_runs_and_names_the_first(leaky, tmp_path):
    dataset, names, _ = leaky
    # The model does not exist: it would be the first error if it were built.
    strict = [*OPTIONS, ENCOUNTERS, "safety=strict", "model.checkpoint=nowhere.pth"]
    with pytest.raises(LeakError) as caught:
        run_probe(_config(dataset, tmp_path, *strict, "output.run_id=strict"))
    text = str(caught.value)
    assert f"{names['queries'][0]} - {names['gallery'][0]}" in text
    assert "Delete one row of each" in text
    assert "benchmark.exclude=encounter" in text
    assert "benchmark.open_set.enabled=true" in text
    assert (tmp_path / "benchmark_runs" / "strict" / "leaks.csv").exists()
    cured = ["benchmark.exclude=encounter", "benchmark.open_set.enabled=true"]
    with pytest.raises(LeakError) as caught:
        run_probe(_config(dataset, tmp_path, *strict, *cured))
    assert "no image in the gallery" not in str(caught.value), "new animals are meant"
    assert "the split cuts" not in str(caught.value), "they are no answer"
    assert "same file" in str(caught.value)


def test_off_looks_for_nothing(leaky, tmp_path):
    for off in ("safety=off", "safety=false"):
        folder, result = run_probe(_config(leaky[0], tmp_path, *OPTIONS, off))
        assert result.leaks == {"safety": "off"}
        assert not (folder / "leaks.csv").exists()
    with pytest.raises(ConfigError, match="strict"):
        _config(leaky[0], tmp_path, "safety=loud")


def test_a_clean_split_passes_strictly(dataset, tmp_path):
    more = ["safety=strict", ENCOUNTERS, "dataset.split_col=split-time_closed"]
    _, result = run_probe(_config(dataset, tmp_path, *OPTIONS, *more))
    assert result.leaks["queries_same_picture"] == 0


def test_validate_says_it_too(leaky, tmp_path):
    dataset, _, _ = leaky
    found = run_validate(_config(dataset, tmp_path, "ray.num_actors=0", ENCOUNTERS))
    assert found.problems == []
    assert sum("same file" in line for line in found.warnings) == 1
    found = run_validate(_config(dataset, tmp_path, "safety=strict", ENCOUNTERS))
    assert (len(found.problems), found.warnings) == (5, [])
    found = run_validate(_config(dataset, tmp_path, ENCOUNTERS), decode=False)
    assert not any("same file" in line for line in found.warnings)
    assert any("the split cuts" in line for line in found.warnings)


def test_a_training_on_copies_of_held_out_images_is_stopped(leaky, tmp_path):
    dataset, names, _ = leaky
    options = ["ray.num_workers=0", "validation.source=split", "safety=strict"]
    with pytest.raises(
        LeakError, match="of the .* held-out images|held-out images are in"
    ) as caught:
        run_finetune(_config(dataset, tmp_path, *options, model=FinetuneConfig))
    assert names["queries"][0] in str(caught.value)
    assert "no image in" not in str(caught.value)


def test_prints_over_ray_are_the_same(leaky, tmp_path, local_ray, monkeypatch):
    from exreid.pipeline import check_leaks as safety

    config = _config(leaky[0], tmp_path, ENCOUNTERS)
    from exreid.pipeline.inputs import read_images
    from exreid.progress import no_progress

    table, _ = read_images(config)
    check = safety.leak_check(table, config)
    options = {"ray": config.ray, "on_error": "raise", "progress": no_progress, "verbose": False}
    here = safety.make_prints(check, cache=tmp_path / "a", **options)
    monkeypatch.setattr(safety, "FEW_PRINTS", 0)
    spread = safety.make_prints(check, cache=tmp_path / "b", **options)
    assert here.keys == spread.keys
    assert (here.print_NSS == spread.print_NSS).all()
    assert here.report.extracted == spread.report.extracted == len(table)
    again = safety.make_prints(check, cache=tmp_path / "b", **options)
    assert again.report.cached > 0
