"""Every config that comes with the project is one that its command takes."""

from pathlib import Path

import pytest
import yaml

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.sweep import load_sweep
from exreid.config.training import FinetuneConfig
from exreid.pipeline.calibrate import OF_LOCAL

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.name)
def test_it_loads(file):
    if file.name.startswith("tune"):
        assert load_sweep(file).tune.space
        return
    model = FinetuneConfig if "finetune" in file.name else ProbeConfig
    config = load_config(model, file, [])
    assert config != model(), "it says something"


def test_the_published_preset_names_all_that_moves_its_numbers():
    file = CONFIGS / "examples" / "reference_protocol.yaml"
    written = yaml.safe_load(file.read_text())
    assert {"no_background", "crop_to_mask", "reduced_decode"} <= set(written["dataset"])
    assert {*OF_LOCAL, "candidate_k", "local_features", "exclude"} <= set(written["benchmark"])
    config = load_config(ProbeConfig, file, [])
    assert not config.dataset.reduced_decode
    assert config.benchmark.precision == "exact"


def test_there_are_some():
    assert len(list(CONFIGS.rglob("*.yaml"))) >= 6
