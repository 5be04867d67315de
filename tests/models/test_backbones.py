"""Backbones: real weights in the right places, and no weights that do not fit."""

import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage.data import chelsea
from timm.data import create_transform, resolve_model_data_config

from exreid.errors import CheckpointError, ConfigError
from exreid.models.backbones import BACKBONES, GemPooled, build_backbone, find_entry
from exreid.models.checkpoints import fit_state_dict, weights_fingerprint
from exreid.models.lite0 import lite0_state_dict

IMAGENET_CATS = range(281, 286)


@pytest.fixture(scope="module")
def lite0():
    return build_backbone("efficientnet-lite0")


def test_the_offline_backbone_is_the_published_one(lite0):
    assert (lite0.image_size, lite0.crop_pct, lite0.interpolation) == (224, 0.875, "bicubic")
    assert lite0.mean_rgb == lite0.std_rgb == (0.5, 0.5, 0.5)


def test_all_offline_weights_find_their_place_and_know_a_cat():
    from PIL import Image

    module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = lite0_state_dict()
    assert len(tensors) == 296
    module.load_state_dict(tensors, strict=True)
    transform = create_transform(**resolve_model_data_config(module), is_training=False)
    with torch.inference_mode():
        logits = module.eval()(transform(Image.fromarray(chelsea()))[None])
    assert int(logits.argmax()) in IMAGENET_CATS
    assert float(logits.softmax(1)[0, list(IMAGENET_CATS)].sum()) > 0.8


def test_table_names_are_models_that_timm_knows():
    for name, entry in BACKBONES.items():
        if not entry.architecture.startswith("hf-hub:"):
            assert entry.architecture in {*timm.list_pretrained(), *timm.list_models()}, name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("efficientnet-lite", "Did you mean efficientnet-lite0?"),
        ("timm:resnt18", "resnet18"),
        ("hf-hub:nobody", "hf-hub:OWNER/NAME"),
    ],
)
def test_an_unknown_name_suggests_near_ones(name, says):
    with pytest.raises(ConfigError, match=says):
        find_entry(name)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone."])
def test_a_local_checkpoint_gives_the_same_vectors(tmp_path, lite0, suffix, prefix):
    tensors = {f"{prefix}{name}": t.clone() for name, t in lite0.module.state_dict().items()}
    file = tmp_path / f"weights{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save({"model": tensors}, file)
    loaded = build_backbone("timm:tf_efficientnet_lite0", checkpoint=file)
    assert weights_fingerprint(loaded.module) == weights_fingerprint(lite0.module)


def test_a_checkpoint_with_a_classifier_fits_a_backbone_without():
    module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    fit_state_dict(module, lite0_state_dict(), source="test")
    assert torch.equal(module.state_dict()["bn1.weight"], lite0_state_dict()["bn1.weight"])


def test_missing_unexpected_and_misshaped_keys_are_named(tmp_path, lite0):
    tensors = dict(lite0.module.state_dict())
    tensors.pop("conv_stem.weight")
    tensors["bn1.weight"] = torch.ones(3)
    tensors["extra.weight"] = torch.ones(1)
    file = tmp_path / "weights.pth"
    torch.save(tensors, file)
    with pytest.raises(CheckpointError) as error:
        build_backbone("efficientnet-lite0", checkpoint=file)
    for part in ("conv_stem.weight", "bn1.weight (3,) for (32,)", "extra.weight", "weights.pth"):
        assert part in str(error.value)


class _RunsCode:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys):
    file = tmp_path / "evil.pth"
    torch.save({"model": _RunsCode()}, file)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_RunsCode()))
    for path in (file, tmp_path / "raw.pth"):
        with pytest.raises(CheckpointError, match=path.name):
            build_backbone("efficientnet-lite0", checkpoint=path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        build_backbone("efficientnet-lite0", checkpoint=tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        build_backbone("efficientnet-lite0", checkpoint=tmp_path / "none.pth")


def test_gem_pooling_against_its_formula():
    class Trunk(torch.nn.Module):
        def forward_features(self, x):
            return x

    module = GemPooled(Trunk(), 2).eval()
    x_BCHW = torch.rand(3, 2, 4, 5)
    expected = (x_BCHW.numpy().clip(1e-6) ** 3).mean((2, 3)) ** (1 / 3)
    expected = expected / np.sqrt(1 + module.bn.eps)  # a fresh batch norm only scales
    np.testing.assert_allclose(module(x_BCHW).detach().numpy(), expected, rtol=1e-5)


def test_the_fingerprint_sees_one_changed_weight(lite0):
    before = weights_fingerprint(lite0.module)
    bias = lite0.module.bn1.bias
    bias.data[0] += 1e-6
    assert weights_fingerprint(lite0.module) != before
    bias.data[0] -= 1e-6
