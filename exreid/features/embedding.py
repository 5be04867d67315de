"""Global features: uint8 images to one vector each, the same to the last bit however batched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from exreid.models import device as devices
from exreid.models.checkpoints import weights_fingerprint
from exreid.models.device import in_parts, keep_memory, on_device, whole_fp32
from exreid.records import Json

if TYPE_CHECKING:
    # timm takes longer to import than all else: it is left to those who build a backbone.
    from exreid.models.backbones import Backbone

EMBEDDING_VERSION = 1
"""Raise it when the code of this stage changes its numbers: cached vectors are then made anew."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Embedder:
    """A backbone ready to embed: on a device, in a precision, in batches of one fixed size.

    Convolutions give other last bits for other batch sizes, so the last batch is filled up with
    blank images: a vector depends on its image alone, not on the others of its batch.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        batch_size: int,
        dtype: Literal["fp32", "bf16"] = "fp32",
        device: str = "cpu",
        threads: int | None = None,
        deterministic: bool = False,
        flip: bool = False,
    ) -> None:
        """``flip``: a vector is the mean of the image's and its mirror image's, each of length 1
        (test-time augmentation). Mirroring turns a left flank into what no right flank looks
        like, since an animal's flanks differ: it can only help as far as the backbone's features
        depend on the direction that the animal faces."""
        keep_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        self.batch_size = batch_size
        self.device, self.flip, self.deterministic = device, flip, deterministic
        self.dtype = DTYPES[dtype]
        module = backbone.module.to(device=device, dtype=self.dtype)
        self.module = module.to(memory_format=torch.channels_last)
        self.mean_3 = 255.0 * torch.tensor(backbone.mean_rgb, device=device)
        self.std_3 = 255.0 * torch.tensor(backbone.std_rgb, device=device)

    def __call__(self, images_NHWC: np.ndarray) -> np.ndarray:
        """uint8 RGB images (N, H, W, 3) to float32 vectors (N, D), not normalised."""
        strictly = devices.deterministic() if self.deterministic else nullcontext()
        with whole_fp32(), strictly:
            parts = [self._embed_batch(batch) for batch in self._batches(images_NHWC)]
        # A GPU is waited for once, after all batches are queued.
        return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, 0), np.float32)

    def _batches(self, images_NHWC: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(images_NHWC), self.batch_size):
            yield images_NHWC[start : start + self.batch_size]

    @torch.inference_mode()
    def _embed_batch(self, images_BHWC: np.ndarray) -> torch.Tensor:
        count = len(images_BHWC)
        filled = np.zeros((self.batch_size, *images_BHWC.shape[1:]), np.uint8)
        filled[:count] = images_BHWC
        vectors = in_parts(lambda rows: self._forward(filled[rows]), self.batch_size)
        return torch.cat(vectors)[:count]

    def _forward(self, images_BHWC: np.ndarray) -> torch.Tensor:
        pixels = on_device(images_BHWC, torch.device(self.device)).float()
        pixels.sub_(self.mean_3).div_(self.std_3)
        # Rows of RGB triples are channels_last already: the permutation moves no data.
        pixels = pixels.permute(0, 3, 1, 2).to(self.dtype)
        vectors: torch.Tensor = self.module(pixels).float()
        if self.flip:
            mirrored = self.module(pixels.flip(3)).float()
            vectors = (_unit(vectors) + _unit(mirrored)) / 2
        return vectors


def _unit(vectors_ND: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1; one of zeros stays as it is, and ranking reports its image."""
    length_N1 = vectors_ND.norm(dim=1, keepdim=True)
    return vectors_ND / torch.where(length_N1 > 0, length_N1, 1.0)


def stage_description(
    backbone: Backbone,
    preprocessing: Mapping[str, Json],
    *,
    dtype: str,
    batch_size: int,
    device: str,
    flip: bool = False,
) -> dict[str, Json]:
    """Everything besides the image and its mask that a vector depends on, for the cache's key."""
    mirrored = {"flip": True} if flip else {}
    package = {"package": backbone.package} if backbone.package else {}
    return {
        **mirrored,
        **package,
        "stage": "embedding",
        "stage_version": EMBEDDING_VERSION,
        "backbone": backbone.name,
        "weights": weights_fingerprint(backbone.module),
        "mean_rgb": list(backbone.mean_rgb),
        "std_rgb": list(backbone.std_rgb),
        "preprocessing": preprocessing,
        "dtype": dtype,
        "batch_size": batch_size,
        "device": device,
        "torch": torch.__version__,
        "timm": version("timm"),
    }
