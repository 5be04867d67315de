"""A small training of a matcher without image files: keypoints in memory, three animals."""

import numpy as np
import torch

from exreid.matching.lightglue import MatchSettings
from exreid.matching.mining import unordered_pairs
from exreid.matching.shortlist import shortlist_pairs
from exreid.metrics.ranking import rank_scores
from exreid.records import LocalFeatures, RetrievalSide
from exreid.training.matcher import MatcherTask, Mine, Shortlists
from exreid.training.state import Training
from tests.training import helpers

IMAGES, ANIMALS, POINTS, LENGTH = 12, 3, 12, 128
SETTINGS = MatchSettings(filter_threshold=0.0)


def features():
    """Each animal has its own keypoints; an image has most of them, moved, among others."""
    random = np.random.default_rng(5)

    def unit(*shape):
        values = random.normal(size=(*shape, LENGTH))
        return values / np.linalg.norm(values, axis=-1, keepdims=True)

    coats, places = unit(ANIMALS, POINTS), random.uniform(10, 90, (ANIMALS, POINTS, 2))
    descriptors, points = unit(IMAGES, POINTS), random.uniform(10, 90, (IMAGES, POINTS, 2))
    for i in range(IMAGES):
        shown = random.permutation(POINTS)[: POINTS // 2]
        noisy = coats[i % ANIMALS, shown] + 0.7 * unit(len(shown))
        descriptors[i, : len(shown)] = noisy / np.linalg.norm(noisy, axis=-1, keepdims=True)
        points[i, : len(shown)] = places[i % ANIMALS, shown] + random.normal(size=(len(shown), 2))
    count = np.full(IMAGES, POINTS, np.int32)
    count[2] = 7
    return LocalFeatures(
        points.astype(np.float32),
        descriptors.astype(np.float16),
        count,
        np.full((IMAGES, 2), 100, np.int32),
    )


def config(**parts):
    tree = {
        "dataset": {"encounter_cols": ("encounter",)},
        "train": {"what": "matcher", "batch_size": 4, "epochs": 2},
        "loss": {"type": "pairs"},
        "matcher": {"layers": 1},
        "mine": {"positives": 2, "negatives": 2, "random": 1, "drawn": 2},
        "optimizer": {"lr": 0.001, "weight_decay": 0.0, "clip_norm": 1.0},
        "benchmark": {"method": "local_lightglue", "local_score": "confidence"},
        "output": {"best_metric": "mAP"},
    }
    for part, values in parts.items():
        tree[part] = {**tree.get(part, {}), **values}
    return helpers.FinetuneConfig.model_validate(tree)


def training_of(config, folder) -> Training:
    """Trained on the first nine images, and validated with the last three against these."""
    identity_N = np.arange(IMAGES) % ANIMALS
    ids, known = tuple(f"image-{i}" for i in range(IMAGES)), np.arange(9)

    def side(position_N):
        return RetrievalSide(
            tuple(ids[i] for i in position_N), position_N, identity_N[position_N], position_N
        )

    every = np.stack(np.meshgrid(known, known), axis=-1).reshape(-1, 2)
    mine = Mine(known, identity_N[:9], known, ids[:9], unordered_pairs(every, known))
    score_P = np.random.default_rng(2).random(len(mine.pair_P2))
    mined = mine.pairs(score_P, config)
    queries, gallery = side(np.arange(9, IMAGES)), side(known)
    ranking = rank_scores(np.zeros((3, 9), np.float32), queries, gallery)
    own = features()
    task = MatcherTask(
        extractor="aliked-n16",
        lightglue="aliked",
        adapted=None,
        settings=SETTINGS,
        features=lambda: own.take,
        mine=mine,
        mined=mined,
        validation=Shortlists(queries, gallery, ranking, 9, *shortlist_pairs(ranking, 9)),
    )
    return Training(
        config=config,
        task=task,
        labels=("a", "b", "c"),
        label_N=identity_N[mined.anchor_A],
        image_ids=tuple(ids[i] for i in mined.anchor_A),
        folder=folder,
    )


def weights_of(state):
    return {name: value.detach().clone() for name, value in state.model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )
