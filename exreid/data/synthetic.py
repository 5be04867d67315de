"""Synthetic data sets in the layout of CzechLynx v2, for tests, the demo and scaling runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import cv2
import numpy as np

from exreid.data.masks import encode_mask
from exreid.data.synthetic_coat import background, coat, render_image
from exreid.errors import ConfigError
from exreid.storage.files import clear_leftovers, written_whole

VERSION = 1
MARKER_FILE = "synthetic.json"
"""The arguments of the data set in the folder; written first."""
METADATA_FILE = "CzechLynxDataset-Metadata-Real.csv"
COLUMNS = (
    *("source", "path", "unique_name", "date", "relative_age", "encounter", "coat_pattern"),
    *("location", "cell_code", "latitude", "longitude", "trap_id", "mask", "pose"),
    *("split-geo_aware", "split-time_open", "split-time_closed", "split-pose"),
)
SOURCES = ("synthetic_north", "synthetic_south")
TRAPS = 12
MAIN_FLANK_SHARE = 0.8
NEW_ANIMAL_EVERY = 5
"""Each fifth animal is only in test of the open split."""
TEST_SHARE = 0.3
LARGEST_BURST = 3
PHOTO_QUALITY = 88


@dataclass(frozen=True)
class Shot:
    """One photograph to be taken."""

    identity: int
    number: int
    encounter: int
    source: str
    trap: int
    flank: int
    day: date | None
    test: bool
    open_test: bool


def write_dataset(
    out: Path,
    *,
    identities: int,
    images_per_identity: int,
    seed: int = 0,
    image_wh_px: tuple[int, int] = (512, 384),
    animals_per_photo: int = 1,
    workers: int = 1,
    on_progress: Callable[[int], object] | None = None,
) -> Path:
    """Write a data set into ``out`` and return its metadata file.

    The same arguments give the same bytes, whatever ``workers`` (threads) is, and animal i looks
    the same whatever the number of animals. With several ``animals_per_photo``, that many animals
    walk together: each photograph, as many times wider, shows them side by side, and each has a
    row with its box and mask. The metadata file is written last. A folder with this same data set
    is left as it is, or finished if its writing was interrupted; any other folder that is not empty
    is a ConfigError.
    """
    _check(identities, images_per_identity, seed, image_wh_px)
    if animals_per_photo < 1:
        raise ConfigError("--animals-per-photo: at least 1.")
    arguments: dict[str, object] = {
        "version": VERSION,
        "identities": identities,
        "images_per_identity": images_per_identity,
        "seed": seed,
        "image_wh_px": list(image_wh_px),
    }
    if animals_per_photo > 1:
        arguments["animals_per_photo"] = animals_per_photo
    columns = [*COLUMNS, "bbox"] if animals_per_photo > 1 else COLUMNS
    metadata = out / METADATA_FILE
    if _is_there(out, arguments):
        return metadata
    out.mkdir(parents=True, exist_ok=True)
    clear_leftovers(out)
    with written_whole(out / MARKER_FILE) as marker:
        marker.write_text(json.dumps(arguments, indent=1))
    groups = [
        range(first, min(first + animals_per_photo, identities))
        for first in range(0, identities, animals_per_photo)
    ]
    shots = (
        [replace(shot, identity=i) for i in group]
        for group in groups
        for shot in plan(group[0], images_per_identity, seed)
    )
    with (
        written_whole(metadata) as partial,
        ThreadPoolExecutor(workers) as pool,
        partial.open("w", newline="") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        for chunk in _chunks(shots, 64 * workers):
            taken = pool.map(lambda shot: _take(shot, out, seed, image_wh_px), chunk)
            rows = [row for photo in taken for row in photo]
            writer.writerows(rows)
            if on_progress is not None:
                on_progress(len(rows))
    return metadata


def plan(identity: int, images: int, seed: int) -> list[Shot]:
    """All photographs of one animal: bursts of one flank at one trap on one day, in time order.

    The latest bursts, about `TEST_SHARE` of the images, are the test part; an animal with one
    burst is in train alone.
    """
    random = np.random.default_rng([seed, 3, identity])
    main_flank = int(random.integers(0, 2))
    source = SOURCES[int(random.integers(0, len(SOURCES)))]
    day = date(2015, 1, 1) + timedelta(days=int(random.integers(0, 400)))
    bursts: list[list[Shot]] = []
    number = 0
    while number < images:
        size = min(int(random.integers(1, LARGEST_BURST + 1)), images - number)
        day += timedelta(days=int(random.integers(5, 90)))
        flank = main_flank if random.random() < MAIN_FLANK_SHARE else 1 - main_flank
        first = Shot(
            identity=identity,
            number=number,
            encounter=identity * 10_000 + len(bursts),
            source=source,
            trap=int(random.integers(0, TRAPS)),
            flank=flank,
            day=None if random.random() < 0.03 else day,
            test=False,
            open_test=False,
        )
        burst = [replace(first, number=number + i) for i in range(size)]
        bursts.append(burst)
        number += size
    first_test = _first_test_burst([len(burst) for burst in bursts], images)
    new = identity % NEW_ANIMAL_EVERY == NEW_ANIMAL_EVERY - 1
    return [
        replace(shot, test=k >= first_test, open_test=new or k >= first_test)
        for k, burst in enumerate(bursts)
        for shot in burst
    ]


def _first_test_burst(sizes: list[int], images: int) -> int:
    taken, first = 0, len(sizes)
    while first > 1 and taken + sizes[first - 1] / 2 <= max(TEST_SHARE * images, 1):
        first -= 1
        taken += sizes[first]
    return first


def _take(
    shots: list[Shot], out: Path, seed: int, image_wh_px: tuple[int, int]
) -> list[dict[str, object]]:
    """Render and write one photograph of one or more animals; their rows of the metadata."""
    width, height = image_wh_px
    scene = background(seed, shots[0].trap, width * len(shots), height)
    drawn = [
        render_image(
            coat(seed, shot.identity, shot.flank),
            np.ascontiguousarray(scene[:, width * place : width * (place + 1)]),
            facing_right=shot.flank == 1,
            encounter_random=np.random.default_rng([seed, 4, shot.encounter]),
            image_random=np.random.default_rng([seed, 5, shot.identity, shot.number]),
        )
        for place, shot in enumerate(shots)
    ]
    path = _write_photo(np.hstack([image for image, _ in drawn]), shots[0], out)
    rows = []
    for place, (shot, (_, visible)) in enumerate(zip(shots, drawn, strict=True)):
        whole = np.zeros((height, width * len(shots)), visible.dtype)
        whole[:, width * place : width * (place + 1)] = visible
        box = {} if len(shots) == 1 else {"bbox": _box_text(whole)}
        rows.append(_row(shot, path, whole) | box)
    return rows


def _box_text(visible: np.ndarray) -> str:
    x, y, width, height = cv2.boundingRect(visible.astype(np.uint8))
    return json.dumps([x, y, width, height])


def _write_photo(image: np.ndarray, shot: Shot, out: Path) -> str:
    """Write a photograph; its path below ``out``."""
    name = f"lynx_{shot.identity:04d}"
    path = f"CzechLynx/{shot.source}/{name}/{shot.number:05d}_{name}.jpg"
    file = out / path
    file.parent.mkdir(parents=True, exist_ok=True)
    ok, data = cv2.imencode(
        ".jpg",
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, PHOTO_QUALITY],
    )
    assert ok
    file.write_bytes(data.tobytes())
    return path


def _row(shot: Shot, path: str, visible: np.ndarray) -> dict[str, object]:
    return {
        "source": shot.source,
        "path": path,
        "unique_name": f"lynx_{shot.identity:04d}",
        "date": shot.day.strftime("%d.%m.%Y") if shot.day else "",
        "relative_age": "",
        "encounter": shot.encounter,
        "coat_pattern": "spotted",
        "location": f"loc_{shot.trap % 4}",
        "cell_code": f"10kmE{450 + shot.trap}N295",
        "latitude": 48.5 + shot.trap / 10,
        "longitude": 13.0 + shot.trap / 10,
        "trap_id": f"{shot.source}-{shot.trap}",
        "mask": encode_mask(visible),
        "pose": "right" if shot.flank else "left",
        "split-geo_aware": "test" if shot.trap % 4 == 3 else "train",
        "split-time_open": "test" if shot.open_test else "train",
        "split-time_closed": "test" if shot.test else "train",
        "split-pose": "test" if shot.flank else "train",
    }


def _chunks(shots: Iterator[list[Shot]], size: int) -> Iterator[list[list[Shot]]]:
    part: list[list[Shot]] = []
    for shot in shots:
        part.append(shot)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _check(
    identities: int, images_per_identity: int, seed: int, image_wh_px: tuple[int, int]
) -> None:
    if identities < 1 or images_per_identity < 1:
        raise ConfigError(
            f"{identities} identities of {images_per_identity} images: both must be at least 1."
        )
    if images_per_identity > 10_000:
        raise ConfigError("--images-per-identity: at most 10,000.")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: must not be negative.")
    if min(image_wh_px) < 64:
        raise ConfigError(f"images of {image_wh_px} pixels are too small; at least 64 a side.")


def _is_there(out: Path, arguments: dict[str, object]) -> bool:
    marker = out / MARKER_FILE
    left = [file for file in out.iterdir() if file.suffix != ".tmp"] if out.exists() else []
    if marker.exists() and json.loads(marker.read_text()) == arguments:
        return (out / METADATA_FILE).exists()
    if left:
        raise ConfigError(
            f"{out} is not empty and has another data set. Choose another --out, or remove it."
        )
    return False
