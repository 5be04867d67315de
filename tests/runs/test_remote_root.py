"""A data set behind a URL gives the numbers of the same data set on a disk."""

import fsspec
import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.runs.probe import run_probe


@pytest.fixture
def remote(dataset):
    memory = fsspec.filesystem("memory")
    memory.put(f"{dataset}/", "/lynx", recursive=True)
    yield "memory://lynx"
    memory.rm("/lynx", recursive=True)


def _overrides(root, out):
    return [
        f"dataset.root={root}",
        f"output.root={out}",
        "ray.num_actors=0",
        "dataset.image_size=64",
        "dataset.no_background=true",
        "benchmark.bootstrap_resamples=0",
    ]


def test_a_probe_of_a_url(dataset, remote, tmp_path):
    ours, result = run_probe(load_config(ProbeConfig, None, _overrides(remote, tmp_path / "a")))
    plain, expected = run_probe(load_config(ProbeConfig, None, _overrides(dataset, tmp_path / "b")))
    assert result.metrics == expected.metrics
    first, second = (pd.read_parquet(folder / "rankings.parquet") for folder in (ours, plain))
    pd.testing.assert_frame_equal(first, second)
    _, result = run_probe(load_config(ProbeConfig, None, _overrides(remote, tmp_path / "a")))
    assert (result.counts["images_extracted"], result.counts["images_cached"]) == (0, 36)


def test_a_missing_file_behind_a_url_is_named(remote, tmp_path, capsys):
    memory = fsspec.filesystem("memory")
    photo = sorted(path for path in memory.find("/lynx") if path.endswith(".jpg"))[0]
    memory.rm(photo)
    assert main(["validate", *_overrides(remote, tmp_path)]) == 1
    assert photo.removeprefix("/lynx/") in capsys.readouterr().out
