"""The pictures of a report: two sizes of each image, named by their content, made once.

Each process has one image in memory at a time.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageOps

from exreid.data.boxes import box_in_image
from exreid.data.image_files import Decoded, load_image
from exreid.data.images import Crop, used_part
from exreid.data.masks import decode_mask, fit_mask_to_image
from exreid.errors import ImageError, MaskError
from exreid.records import region_text
from exreid.storage.files import written_whole
from exreid.storage.urls import file_signature, read_bytes

if TYPE_CHECKING:  # what the processes for pictures import stays small
    from exreid.report.queries import QueryPage
    from exreid.report.read import MatchedRows, RunData

PICTURES_VERSION = 1
"""Raise it when the code of this file changes its pictures."""
THUMB_PX, LARGE_PX, MASK_PX = 320, 1000, 128
"""Longer side of each; nothing is enlarged."""
QUALITY = {"t": 78, "p": 84}
GREYED = 0.75
"""The share of its colour and contrast that a photograph loses outside the animal's box."""
BOX_RGB = (255, 255, 255)
MANIFEST = "pictures.parquet"
PICTURES_PER_TASK = 16
LARGE_IDENTITIES = 3
"""The best image of this many identities of each query is shown large."""
Task = TypeVar("Task")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Wanted:
    """An image that the report shows."""

    root: str | None
    path: str | None
    """None: there is no picture of it."""
    mask: str | None
    large: bool
    """Whether it is also shown large."""
    bbox: str | None = None
    crop: Crop = "none"
    """The part of the photograph that keypoints were looked for in, by the run's config."""
    crop_margin: float = 0.0

    @property
    def region(self) -> str | None:
        """Where the animal is, as `region_text` has it."""
        return region_text(self.mask, self.bbox)


@dataclass(frozen=True)
class Picture:
    """The pictures of an image, or the error."""

    key: str
    """Its files are ``t/KE/KEY.jpg`` and ``p/KE/KEY.jpg``; empty where it cannot be shown."""
    wh_px: tuple[int, int]
    """Of the image as displayed, at full scale."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the part that keypoints were looked for in, as shares."""
    mask_wh_px: tuple[int, int]
    mask: bytes
    """The mask at a small size, packed bits by row; empty without one."""
    error: str = ""
    large: bool = False
    """Whether the large size exists."""
    theta_rad: float = 0.0
    """How far ``box`` is turned about its centre, clockwise."""

    def unpacked_mask(self) -> np.ndarray | None:
        """Where the animal is, bool; None without a mask."""
        if not self.mask:
            return None
        width, height = self.mask_wh_px
        bits = np.unpackbits(np.frombuffer(self.mask, np.uint8), count=width * height)
        return bits.reshape(height, width).astype(bool)


NOTHING = Picture("", (0, 0), (0.0, 0.0, 1.0, 1.0), (0, 0), b"")


def wanted_pictures(
    data: RunData, pages: Sequence[QueryPage], matched: Sequence[MatchedRows]
) -> dict[int, Wanted]:
    """The images that the report shows, by their row of `RunImages`."""
    queries = set(range(len(data.queries)))
    large, small = set(queries), set(queries)
    for page in pages:
        for number, neighbour in enumerate(page.neighbours):
            small.update(neighbour.images)
            if number < LARGE_IDENTITIES:
                large.update(neighbour.images[:1])
        for candidate in page.implausible:
            small.update(candidate.neighbour.images)
    large.update(image for rows in matched for _, image in rows)
    dataset = data.config.dataset if data.config else None
    crop, margin = (dataset.cropped, dataset.crop_margin) if dataset else ("none", 0.0)
    names = ("root", "path", "mask", "bbox")
    columns = (data.images.rows[name].to_numpy(dtype=object) for name in names)
    root_N, path_N, mask_N, bbox_N = columns
    return {
        i: Wanted(root_N[i], path_N[i], mask_N[i], i in large, bbox_N[i], crop, margin)
        for i in sorted(large | small)
    }


def make_pictures(
    wanted: Mapping[int, Wanted],
    folder: Path,
    *,
    workers: int,
    on_progress: Callable[[int], object] = lambda count: None,
) -> dict[int, Picture]:
    """Make both sizes of each image under ``folder``, where they are missing.

    An image that cannot be read has an ``error`` and no key.
    """
    known = _read_manifest(folder / MANIFEST)
    marks = {i: _mark(image) for i, image in wanted.items()}
    made = {
        mark: known[mark]
        for mark in marks.values()
        if mark in known and _there(known[mark], folder)
    }
    todo = {marks[i]: image for i, image in wanted.items() if marks[i] not in made}
    on_progress(len(wanted) - len(todo))
    items = list(todo.items())
    batches = [items[i : i + PICTURES_PER_TASK] for i in range(0, len(items), PICTURES_PER_TASK)]
    tasks = ((str(folder), [image for _, image in batch]) for batch in batches)
    for batch, pictures in zip(batches, made_in_order(_make_batch, tasks, workers), strict=True):
        made.update((mark, picture) for (mark, _), picture in zip(batch, pictures, strict=True))
        on_progress(len(batch))
    if todo:
        _write_manifest(folder / MANIFEST, known | {m: p for m, p in made.items() if p.key})
    return {i: made[mark] for i, mark in marks.items()}


def made_in_order(
    make: Callable[[Task], Made], tasks: Iterable[Task], workers: int
) -> Iterator[Made]:
    """``make`` of each task, in order, in other processes where ``workers`` is over 1; no more
    than twice as many tasks as workers are under way."""
    if workers <= 1:
        yield from map(make, tasks)
        return
    waiting: list[Future[Made]] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for task in tasks:
            waiting.append(pool.submit(make, task))
            while len(waiting) >= 2 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def picture_file(key: str, size: str) -> str:
    """Its path in the report; ``size`` is ``t`` or ``p``.

    >>> picture_file("abcd", "t")
    't/ab/abcd.jpg'
    """
    return f"{size}/{key[:2]}/{key}.jpg"


def _make_batch(task: tuple[str, list[Wanted]]) -> list[Picture]:
    folder, wanted = task
    return [make_picture(image, Path(folder)) for image in wanted]


def make_picture(wanted: Wanted, folder: Path) -> Picture:
    """The pictures of one image below ``folder``, or why there are none."""
    if wanted.root is None or wanted.path is None:
        return NOTHING
    try:
        data = read_bytes(wanted.root, wanted.path)
        decoded = load_image(data, min_side_px=LARGE_PX // 2)
        image = _with_box(decoded, wanted.bbox) if wanted.bbox else decoded.image
    except (ImageError, MaskError) as error:
        return replace(NOTHING, error=str(error))
    digest = hashlib.sha256(f"{PICTURES_VERSION}-{THUMB_PX}-{LARGE_PX}-".encode() + data)
    digest.update((wanted.bbox or "").encode())
    key = digest.hexdigest()[:20]
    for size, longer_px in (("t", THUMB_PX), ("p", LARGE_PX)):
        file = folder / picture_file(key, size)
        if (size == "t" or wanted.large) and not file.exists():
            _save(image, longer_px, file, QUALITY[size])
    picture = Picture(key, decoded.full_wh_px, NOTHING.box, (0, 0), b"", large=wanted.large)
    if not wanted.region:
        return picture
    try:
        picture = _with_part(picture, data, wanted)
        return _with_mask(picture, wanted, decoded.exif_orientation) if wanted.mask else picture
    except MaskError as error:
        return replace(picture, error=str(error))


def _with_box(decoded: Decoded, bbox: str) -> Image.Image:
    """The photograph with the box drawn, and greyed outside it."""
    box = box_in_image(bbox, decoded.full_wh_px)
    scale = decoded.image.width / decoded.full_wh_px[0]
    corners = [(x * scale, y * scale) for x, y in box.corners_42.tolist()]
    inside = Image.new("L", decoded.image.size)
    ImageDraw.Draw(inside).polygon(corners, fill=255)
    grey = ImageOps.grayscale(decoded.image).convert("RGB")
    faint = Image.blend(decoded.image, grey, GREYED)
    faint = Image.blend(faint, Image.new("RGB", faint.size, (128, 128, 128)), 0.5 * GREYED)
    image = Image.composite(decoded.image, faint, inside)
    width = max(2, round(max(image.size) / 250))
    ImageDraw.Draw(image).line([*corners, *corners[:2]], BOX_RGB, width, joint="curve")
    return image


def _with_part(picture: Picture, data: bytes, wanted: Wanted) -> Picture:
    """With the part that keypoints were looked for in."""
    width, height = picture.wh_px
    part = used_part(data, wanted.region, wanted.crop, wanted.crop_margin)
    box = (part.left / width, part.top / height, part.right / width, part.bottom / height)
    return replace(picture, box=box, theta_rad=part.theta_rad)


def _with_mask(picture: Picture, wanted: Wanted, orientation: int) -> Picture:
    width, height = picture.wh_px
    mask_HW = fit_mask_to_image(
        decode_mask(wanted.mask or "", picture.wh_px), picture.wh_px, orientation
    )
    scale = min(1.0, MASK_PX / max(width, height))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = Image.fromarray(np.ascontiguousarray(mask_HW).view(np.uint8) * np.uint8(255))
    bits = np.asarray(grey.resize(small, Image.Resampling.BOX)) >= 128
    return replace(picture, mask_wh_px=small, mask=np.packbits(bits).tobytes())


def _save(image: Image.Image, longer_px: int, file: Path, quality: int) -> None:
    scale = min(1.0, longer_px / max(image.size))
    wh = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(wh, Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=quality, progressive=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        temporary.write_bytes(stream.getvalue())


def _mark(wanted: Wanted) -> str:
    """A text that changes when the picture would; another each time for an unreachable file."""
    try:
        signature = file_signature(wanted.root or "", wanted.path or "")
    except ImageError:
        signature = uuid.uuid4().hex
    text = "\0".join(map(str, (PICTURES_VERSION, signature, *asdict(wanted).values())))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _there(picture: Picture, folder: Path) -> bool:
    sizes = ("t", "p") if picture.large else ("t",)
    return all(os.path.isfile(folder / picture_file(picture.key, size)) for size in sizes)  # noqa: PTH113


def _read_manifest(file: Path) -> dict[str, Picture]:
    try:
        rows = pq.read_table(file).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}
    return {
        row["mark"]: Picture(
            row["key"],
            tuple(row["wh_px"]),
            tuple(row["box"]),
            tuple(row["mask_wh_px"]),
            row["mask"],
            row["error"],
            row["large"],
            row.get("theta_rad", 0.0),
        )
        for row in rows
    }


def _write_manifest(file: Path, pictures: dict[str, Picture]) -> None:
    rows = [{"mark": mark, **asdict(picture)} for mark, picture in pictures.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
