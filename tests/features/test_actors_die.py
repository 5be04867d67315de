"""An actor that is killed in the middle of an extraction costs its batch, not the run."""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from exreid.config.probe import RayConfig
from exreid.data.images import Preprocessing
from exreid.data.metadata import Columns, read_image_table
from exreid.features.embedding import Embedder
from exreid.features.extraction import PrepareImages, embed_table, extract_in_process
from exreid.models.backbones import build_backbone

PREPROCESSING = Preprocessing(
    image_wh_px=(64, 64),
    resize="stretch",
    crop_pct=1.0,
    interpolation="bicubic",
    no_background=False,
    crop="none",
    crop_margin=0.0,
    fill_rgb=(0, 0, 0),
)


class KillOnce(PrepareImages):
    """Ends its own process at the image in place 13, the first time that it is seen."""

    def __init__(self, root: str, mark: Path) -> None:
        super().__init__(root, PREPROCESSING)
        self.mark = mark

    def __call__(self, batch):
        if 13 in batch["position"] and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


def test_a_killed_actor_changes_no_bit(dataset, local_ray, tmp_path):
    import ray.cloudpickle

    # The actors cannot import this file: send them the class itself.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    from exreid.distributed.extract import extract_over_actors
    from exreid.distributed.placement import place_actors

    table, _ = read_image_table(str(dataset), columns=Columns())
    backbone = build_backbone("efficientnet-lite0", image_size=64)
    mark = tmp_path / "killed"

    def over_actors(table, positions):
        return extract_over_actors(
            table,
            positions,
            prepare=KillOnce(table.root, mark),
            backbone=backbone,
            batch_size=4,
            dtype="fp32",
            deterministic=False,
            placement=place_actors(RayConfig(num_actors=1)),
        )

    def in_process(table, positions):
        prepare = PrepareImages(table.root, PREPROCESSING)
        embedder = Embedder(backbone, batch_size=4, threads=1)
        return extract_in_process(table, positions, prepare=prepare, embedder=embedder)

    options = {"store": None, "memo": None, "on_error": "raise"}
    ours, positions, report = embed_table(table, over_actors, **options)
    assert mark.exists()
    plain, _, _ = embed_table(table, in_process, **options)
    np.testing.assert_array_equal(ours.vectors_ND, plain.vectors_ND)
    assert positions.tolist() == list(range(36))
    assert (report.extracted, report.rejected) == (36, [])
