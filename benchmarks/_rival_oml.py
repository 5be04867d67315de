"""open-metric-learning: inference and retrieval of embeddings."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _rival import Task, read_task
from oml.datasets import ImageQueryGalleryDataset
from oml.inference import inference
from oml.interfaces.models import IExtractor
from oml.retrieval import RetrievalResults
from PIL import Image
from timm.data import create_transform, resolve_data_config


class Lite0(IExtractor):  # type: ignore[misc]
    """The network, as the library takes one; vectors of length 1, as its own networks give them."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        network.load_state_dict(torch.load(weights, weights_only=True))
        network.reset_classifier(0)
        self.network, self.length = network, int(network.num_features)

    def forward(self, images_B3HW: torch.Tensor) -> torch.Tensor:
        """float32 (B, D)."""
        return torch.nn.functional.normalize(self.network(images_B3HW))

    @property
    def feat_dim(self) -> int:
        """D."""
        return self.length


def photograph(file: Path | str | bytes) -> Image.Image:
    """The library picks a reader by its own kinds of transforms; timm's take a PIL image."""
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file).convert("RGB")


def main(task: Task) -> None:
    """Euclidean distances of vectors of length 1: the order is that of their cosine."""
    table = task.table.rename(columns={"unique_name": "label"})
    table["is_query"], table["is_gallery"] = task.is_query, ~task.is_query
    model = Lite0(task.folder / "lite0.pth").eval()
    transform = create_transform(**resolve_data_config({}, model=model.network))
    data = ImageQueryGalleryDataset(table, transform=transform, f_imread=photograph)
    queries, gallery = int(task.is_query.sum()), int((~task.is_query).sum())
    with task.timed("features_s"):
        vectors_ND = inference(model, data, batch_size=16, num_workers=0)
    with task.timed("answers_s"):
        found = RetrievalResults.from_embeddings(vectors_ND, data, n_items=gallery)
    scores_QG = np.full((queries, gallery), np.nan)
    for q, (places, distances) in enumerate(zip(found.retrieved_ids, found.distances, strict=True)):
        scores_QG[q, places.numpy()] = -distances.numpy()
    task.save("open-metric-learning, cosine", scores_QG, queries * gallery)


if __name__ == "__main__":
    main(read_task(Path(sys.argv[1])))
