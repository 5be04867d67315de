"""wildlife-tools: cosine of deep features, and SIFT descriptors by the ratio test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
import torch
from _rival import Task, read_task
from timm.data import create_transform, resolve_data_config
from wildlife_tools.data import WildlifeDataset
from wildlife_tools.features import DeepFeatures, SIFTFeatures
from wildlife_tools.similarity import CosineSimilarity, MatchDescriptors


def main(task: Task) -> None:
    """Both ways, with the tool's own defaults but for the network and the keypoints' number."""
    sides = task.table[task.is_query], task.table[~task.is_query]
    pairs = len(sides[0]) * len(sides[1])
    network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(torch.load(task.folder / "lite0.pth", weights_only=True))
    network.reset_classifier(0)
    transform = create_transform(**resolve_data_config({}, model=network))
    data = [WildlifeDataset(side, transform=transform, col_label="unique_name") for side in sides]
    with task.timed("features_s"):
        extract = DeepFeatures(network, batch_size=16, num_workers=0)
        features = [extract(one) for one in data]
    with task.timed("answers_s"):
        scores_QG = CosineSimilarity()(*features)["cosine"]
    task.save("wildlife-tools, cosine", scores_QG, pairs)

    data = [WildlifeDataset(side, col_label="unique_name") for side in sides]
    with task.timed("features_s"):
        sift = SIFTFeatures(max_keypoints=task.keypoints)
        features = [sift(one) for one in data]
    with task.timed("answers_s"):
        by_threshold = MatchDescriptors(descriptor_dim=128)(*features)
    (scores_QG,) = by_threshold.values()
    task.save("wildlife-tools, SIFT", scores_QG, pairs)


if __name__ == "__main__":
    main(read_task(Path(sys.argv[1])))
