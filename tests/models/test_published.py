"""Weights that are not on this machine: nobody is asked for them where that is not allowed."""

import json
import os
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from exreid.errors import CheckpointError
from exreid.models.backbones import build_backbone
from exreid.models.published import downloads, published_weights


@pytest.fixture
def asked(monkeypatch, impatient_hub, tmp_path):
    """Where this machine would have connected to; its caches are empty."""
    found = []

    def refuse(*address, **unused):
        found.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return found


@pytest.mark.parametrize(
    ("name", "fetch"),
    [
        ("hf-hub:nobody/nothing", "hf download nobody/nothing"),
        ("megadescriptor-t-224", "hf download BVRA/MegaDescriptor-T-224"),
        ("miewid-msv3", "hf download conservationxlabs/miewid-msv3"),
        ("timm:resnet18.a1_in1k", "--download"),
    ],
)
def test_a_gallerys_model_is_not_asked_for_unless_it_is_allowed(asked, name, fetch):
    with downloads(allowed=False), pytest.raises(CheckpointError) as told:
        build_backbone(name)
    assert asked == []
    for part in (name, "not on this machine", "Add --download", fetch):
        assert part in str(told.value)
    assert "HF_HUB_OFFLINE" not in os.environ
    with downloads(allowed=True), pytest.raises(CheckpointError) as told:
        build_backbone(name)
    assert "huggingface.co cannot be reached (no network here). Check the network" in str(
        told.value
    )
    assert len(asked) == 1, "and not five times more, with 23 s between them"
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_hub_that_takes_its_time_is_tried_all_the_same(asked, monkeypatch):
    def slow(*address, **unused):
        asked.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(CheckpointError, match="check the network"):
        build_backbone("hf-hub:nobody/nothing")
    assert len(asked) > 1


def test_weights_of_a_plain_url_are_no_exception(asked, monkeypatch):
    known = timm.get_pretrained_cfg("resnet18.a1_in1k")
    monkeypatch.setattr(known, "hf_hub_id", None)
    monkeypatch.setattr(known, "url", "https://example.org/weights.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: known)
    with downloads(allowed=False), pytest.raises(CheckpointError, match=r"example\.org/weights"):
        build_backbone("timm:resnet18.a1_in1k")
    with downloads(allowed=False), pytest.raises(CheckpointError, match="Add --download"):
        published_weights("superpoint")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="Unset it"):
        published_weights("superpoint")
    assert asked == []


@pytest.mark.parametrize("allowed", [False, True])
def test_what_the_hubs_cache_holds_is_used(asked, allowed):
    """As the hub's client lays it out."""
    kept = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--some--one"
    folder = kept / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    made = timm.create_model("test_vit", pretrained=False, num_classes=0)
    save_file(made.state_dict(), folder / "model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 0, "num_features": made.num_features}
    config["pretrained_cfg"] = {"input_size": [3, *made.patch_embed.img_size], "num_classes": 0}
    (folder / "config.json").write_text(json.dumps(config))
    with downloads(allowed=allowed):
        backbone = build_backbone("hf-hub:some/one")
    weights = backbone.module.state_dict()
    wrong = {n for n, v in made.state_dict().items() if not torch.equal(v, weights[n])}
    assert wrong <= {"pos_embed"}, "which timm resamples"
    assert len(asked) == allowed
