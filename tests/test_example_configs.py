"""Every config that comes with the project is one that its command takes."""

from pathlib import Path

import pytest

from exreid.config import ProbeConfig
from exreid.config_io import load_config
from exreid.config_training import FinetuneConfig
from exreid.config_tune import load_sweep

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.name)
def test_it_loads(file):
    if file.name.startswith("tune"):
        assert load_sweep(file).tune.space
        return
    model = FinetuneConfig if "finetune" in file.name else ProbeConfig
    config = load_config(model, file, [])
    assert config != model(), "it says something"


def test_there_are_some():
    assert len(list(CONFIGS.rglob("*.yaml"))) >= 6
