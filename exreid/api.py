"""exreid from Python: the runs of the commands, with DataFrames instead of printed tables.

Every number is the command's. Nothing is printed, and nothing is kept unless a folder is named.
Errors are those of `exreid.errors`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Union

import numpy as np
import pandas as pd

from exreid.config.io import load_config, with_overrides
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError, RunError
from exreid.records import Result
from exreid.storage.urls import read_bytes

if TYPE_CHECKING:
    import PIL.Image

    from exreid.gallery.folder import Gallery as StoredGallery

PathLike = str | Path


Image = Union[PathLike, "np.ndarray", "PIL.Image.Image"]
"""A photograph: its file, a uint8 RGB array (H, W, 3), or an image of Pillow's."""
Keys = Mapping[str, object]
"""Dotted config keys and their values, such as ``{"dataset.root": "lynx"}``."""


@dataclass(frozen=True)
class Probe:
    """What a probe measured."""

    result: Result
    """Metrics (fractions), their intervals, and counts."""
    rankings: pd.DataFrame
    """``query_id, rank, gallery_id, score, is_match``: the best candidates of each query."""
    folder: Path | None
    """The run's own folder, where ``output_dir`` was named; None where it went."""

    def report(self, out: PathLike | None = None) -> Path:
        """Write the report's pages, into ``report/`` of the run's folder or into ``out``; the first
        page. RunError for a probe whose folder is gone."""
        from exreid.runs.report import write_report

        if self.folder is None:
            raise RunError("a report needs the run's folder: name output_dir when you probe.")
        return write_report(self.folder, None if out is None else Path(out))

    def _repr_html_(self) -> str:
        return pd.Series(self.result.metrics, name=self.result.method).to_frame().to_html()


def probe(
    config: PathLike | None = None,
    keys: Keys | None = None,
    *,
    preset: str | None = None,
    output_dir: PathLike | None = None,
    cache: PathLike | None = None,
) -> Probe:
    """Measure retrieval on a data set, as ``exreid probe`` does.

    ``config`` is a YAML file, ``keys`` are dotted keys and their values, which go before those of
    the file: ``probe(keys={"dataset.root": "lynx", "benchmark.method": "cosine"})``; ``preset`` is
    ``quick``, ``accurate`` or ``published``, and goes behind both. The run's folder is kept under
    ``output_dir``, features in ``cache``; without them both are temporary.
    Raises ConfigError, MetadataError or another ExreidError, as the command would print it.
    """
    from exreid.runs.probe import run_probe

    with _places(output_dir, cache) as places:
        overrides = [*_overrides(keys), *places]
        folder, result = run_probe(load_config(ProbeConfig, config, overrides, preset=preset))
        rankings = pd.read_parquet(folder / "rankings.parquet")
        return Probe(result, rankings, None if output_dir is None else folder)


def embed(images: Sequence[Image], keys: Keys | None = None) -> np.ndarray:
    """The vectors of photographs: float32 (N, D), not normalised, as ``exreid extract`` gives them.

    ``keys`` are those of a probe (``model.*``, ``dataset.image_size``, ...). Masks are not used.
    ImageError for a file that is none.

    >>> import numpy as np
    >>> embed([np.zeros((40, 60, 3), np.uint8)], {"dataset.image_size": 32}).shape
    (1, 1280)
    """
    from exreid.data.images import prepare_image
    from exreid.features.embedding import Embedder
    from exreid.models.backbones import build_backbone
    from exreid.pipeline.embed import preprocessing_for

    config = _of_images(keys)
    model, size = config.model, config.dataset.image_size
    backbone = build_backbone(model.type, checkpoint=model.checkpoint, image_size=size)
    preprocessing = preprocessing_for(config, backbone)
    embedder = Embedder(
        backbone,
        batch_size=model.batch_size,
        dtype=model.dtype,
        deterministic=config.deterministic,
        flip=model.flip_augmentation,
    )
    parts = []
    for start in range(0, len(images), model.batch_size):
        files = map(_file_of, images[start : start + model.batch_size])
        parts.append(embedder(np.stack([prepare_image(f, None, preprocessing) for f in files])))
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def match(first: Image, second: Image, keys: Keys | None = None) -> pd.DataFrame:
    """The keypoints that LightGlue matches between two photographs, the most certain first.

    Columns ``first_x, first_y, second_x, second_y`` in pixels of each photograph as people see it,
    and ``confidence``. A probe's score is the number of those over ``benchmark.match_threshold``
    (0.5). ``keys`` are those of a probe (``benchmark.local_*``). Masks are not used.
    """
    from exreid.data.images import displayed_wh_px
    from exreid.features.local import LocalExtractor
    from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
    from exreid.models.lightglue import load_lightglue
    from exreid.pipeline.keypoints import lightglue_name, preprocessing_of

    config = _of_images(keys)
    benchmark, preprocessing = config.benchmark, preprocessing_of(config)
    extractor = LocalExtractor(benchmark.local_features, keypoints=benchmark.local_top_k)
    network = load_lightglue(lightglue_name(config))
    matcher = LightGlueMatcher(network, MatchSettings(match_threshold=benchmark.match_threshold))
    found, places = [], []
    for image in (first, second):
        data = _file_of(image)
        pixels_HWC, _ = preprocessing.prepare(data, None)
        features = extractor(pixels_HWC[None])
        size_px = displayed_wh_px(data)[0]
        scale_2 = np.array(size_px) / features.image_wh_px_N2[0]
        found.append(features)
        places.append(features.keypoints_NK2[0] * scale_2)
    (matches,) = matcher.details(found[0], found[1], np.array([[0, 0]]))
    first_X2, second_X2 = places[0][matches.query_X], places[1][matches.gallery_X]
    return pd.DataFrame(
        {
            "first_x": first_X2[:, 0],
            "first_y": first_X2[:, 1],
            "second_x": second_X2[:, 0],
            "second_y": second_X2[:, 1],
            "confidence": matches.confidence_X,
        }
    )


class Gallery:
    """Known animals in a folder, made by ``exreid gallery build``."""

    def __init__(self, stored: StoredGallery) -> None:
        self._stored = stored

    @classmethod
    def open(cls, folder: PathLike) -> Gallery:
        """The gallery in this folder; GalleryError where it is none, or damaged."""
        from exreid.gallery.folder import open_gallery

        return cls(open_gallery(Path(folder)))

    @classmethod
    def build(
        cls,
        folder: PathLike,
        config: PathLike | None = None,
        keys: Keys | None = None,
        *,
        preset: str | None = None,
        split: str | None = None,
        cache: PathLike | None = None,
    ) -> Gallery:
        """Make a gallery in ``folder`` of a data set's photographs, as ``exreid gallery build``
        does: ``Gallery.build("g", keys={"dataset.root": "lynx"}, preset="quick")``. One that is
        there is replaced once the new one is whole."""
        from exreid.runs.gallery_build import build_gallery, decided

        with _places(None, cache) as places:
            overrides = [*_overrides(keys), *places]
            settings = load_config(ProbeConfig, config, overrides, preset=preset)
            build_gallery(decided(settings), Path(folder), split=split)
        return cls.open(folder)

    @property
    def quality(self) -> str:
        """How well it tells its animals apart, in words."""
        from exreid.explain.told import quality_words

        quality = self._stored.quality
        if quality is None:
            return "Verdict: unknown. It decides nothing, or an earlier version made it."
        return " ".join(quality_words(quality, self._stored.config))

    def __len__(self) -> int:
        """How many photographs it has."""
        return len(self._stored)

    def identify(
        self,
        photos: PathLike | Sequence[PathLike],
        *,
        output_dir: PathLike | None = None,
        cache: PathLike | None = None,
    ) -> pd.DataFrame:
        """Which animals are on these photographs (files, or folders of them)?

        A row for each photograph, with the columns of the command's ``identifications.csv``. It
        runs in this process, without Ray. Unreadable photographs have a row that says so.
        """
        from exreid.gallery.photo_table import PhotoOptions
        from exreid.runs.identify import IDENTIFY_KEYS, run_identify

        given = [photos] if isinstance(photos, str | Path) else photos
        with _places(output_dir, cache) as places:
            overrides = ["ray.num_actors=0", "benchmark.keep_matches=0", *places]
            config = with_overrides(self._stored.config, overrides, IDENTIFY_KEYS)
            dataset = config.dataset.model_copy(update={"on_error": "skip"})
            config = config.model_copy(update={"dataset": dataset})
            _, found = run_identify(
                [Path(one) for one in given], self._stored, config, PhotoOptions()
            )
        return pd.DataFrame([photo.row() for photo in found.photos])


@contextmanager
def _places(output_dir: PathLike | None, cache: PathLike | None) -> Iterator[list[str]]:
    """Overrides that say where a run writes; what is not given is a folder that goes afterwards."""
    with TemporaryDirectory(prefix="exreid-") as folder:
        root = Path(folder) / "runs" if output_dir is None else Path(output_dir)
        kept = Path(folder) / "cache" if cache is None else Path(cache)
        yield [
            f"output.root={_as_typed(root.absolute())}",
            f"benchmark.cache={_as_typed(kept.absolute())}",
        ]


def _overrides(keys: Keys | None) -> list[str]:
    return [f"{key}={_as_typed(value)}" for key, value in (keys or {}).items()]


def _of_images(keys: Keys | None) -> ProbeConfig:
    """The config of photographs that no table describes."""
    config = load_config(ProbeConfig, None, _overrides(keys))
    if config.dataset.needs_region:
        raise ConfigError("dataset.no_background and dataset.crop need masks, which are not used.")
    return config


def _file_of(image: Image) -> bytes:
    """A photograph as the bytes of a file; arrays and images of Pillow's without loss."""
    from PIL import Image as Pillow

    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        return read_bytes(str(path.parent), path.name)
    buffer = io.BytesIO()
    picture = Pillow.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.convert("RGB").save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _as_typed(value: object) -> str:
    """A value as the command line takes it: text as it is, all else as JSON."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value)
