"""Work that does not fit a GPU's memory is done in parts; nothing is lost or done twice."""

import numpy as np
import pytest
import torch

from exreid.features.embedding import Embedder
from exreid.models.backbones import build_backbone
from exreid.models.device import in_parts, on_device, whole_fp32


def _holds(most):
    def work(rows):
        if rows.stop - rows.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(rows.start, rows.stop))

    return work


@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_parts_cover_all_rows_in_order(most, caplog):
    parts = in_parts(_holds(most), 13)
    assert [row for part in parts for row in part] == list(range(13))
    assert max(len(part) for part in parts) <= most
    assert bool(caplog.records) == (most < 13)


def test_one_row_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        in_parts(_holds(0), 4)


def test_vectors_of_a_batch_in_parts_are_those_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_vit", pretrained=False)
    size = backbone.image_size
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3)).astype(np.uint8)
    embed = Embedder(backbone, batch_size=4)
    whole = embed(images)
    forward = embed._forward

    def small(rows):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(rows)

    monkeypatch.setattr(embed, "_forward", small)
    np.testing.assert_allclose(embed(images), whole, rtol=1e-5, atol=1e-6)


def test_fp32_is_whole_while_it_is_asked_for():
    before = torch.backends.cudnn.allow_tf32
    with whole_fp32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_copy_is_a_copy():
    values = np.arange(4)
    there = on_device(values[::2], torch.device("cpu"))
    values[:] = 9
    assert there.tolist() == [0, 2]
