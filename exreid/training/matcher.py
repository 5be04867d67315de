"""LightGlue as what is trained: mined pairs in, re-ranked held-out images out.

Letters: b anchors of a batch, U = 1 + n pairs of each, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from exreid.config.training import FinetuneConfig
from exreid.errors import CheckpointError, reading
from exreid.matching.cascade import score_of
from exreid.matching.lightglue import LightGlueMatcher, MatchSettings
from exreid.matching.mining import MinedPairs, draw_batch, mine_pairs, read_mined
from exreid.matching.shortlist import rerank_shortlist
from exreid.matching.tiles import FeaturesOf, plan_tiles, score_tile
from exreid.models.adapted import Adapted, checkpoint_content, matcher_name
from exreid.models.checkpoints import Tensors
from exreid.models.device import on_device
from exreid.models.lightglue import ImagePairs, load_lightglue
from exreid.models.lightglue_weights import LAYERS
from exreid.models.low_rank import add_adapters, merged
from exreid.models.pair_loss import PairLoss
from exreid.records import LocalFeatures, Ranking, RetrievalSide
from exreid.storage import mirror
from exreid.storage.run_folder import write_table
from exreid.training.feed import read_ahead
from exreid.training.model import ModelWithLoss, check_arithmetic
from exreid.training.sampling import Share, uniforms
from exreid.training.state import Training, Validated, validated
from exreid.training.world import World

TILE_PAIRS = {"cpu": 64, "cuda": 2048}
"""Pairs that one worker scores at a time."""


@dataclass(frozen=True)
class Mine:
    """The images that are trained on, and the candidates out of which pairs are mined."""

    position_N: np.ndarray
    """Of each image in the features; identities and encounters are codes."""
    identity_N: np.ndarray
    encounter_N: np.ndarray
    image_ids: tuple[str, ...]
    pair_P2: np.ndarray
    """`exreid.matching.mining.unordered_pairs` of the N images."""

    def pairs(self, score_P: np.ndarray, config: FinetuneConfig) -> MinedPairs:
        """The pairs to train with, by the candidates' scores."""
        return mine_pairs(
            self.pair_P2,
            score_P,
            self.identity_N,
            self.encounter_N,
            self.image_ids,
            positives=config.mine.positives,
            negatives=config.mine.negatives,
            random=config.mine.random,
            seed=config.seed,
        )


@dataclass(frozen=True)
class Shortlists:
    """The validation: held-out queries with the shortlists that are matched."""

    queries: RetrievalSide
    gallery: RetrievalSide
    ranking: Ranking
    """Of the gallery, before matching."""
    shortlist: int
    query_P: np.ndarray
    gallery_P: np.ndarray
    """Indices of the pairs of all shortlists."""


@dataclass(frozen=True)
class MatcherTask:
    """LightGlue for one kind of local features, with the pairs that it is trained on and validated
    with."""

    extractor: str
    """The kind of local features."""
    lightglue: str
    """The name of the published weights."""
    adapted: Adapted | None
    """The weights before the first epoch, where they are not the published ones."""
    settings: MatchSettings
    features: Callable[[], FeaturesOf]
    """Opens the features of all images, in the worker."""
    mine: Mine
    mined: MinedPairs
    """By the weights before the first epoch."""
    validation: Shortlists

    @property
    def name(self) -> str:
        """As checkpoints have it."""
        return matcher_name(self.extractor)

    def build(self, config: FinetuneConfig, *, classes: int, device: torch.device) -> ModelWithLoss:
        """The published network, its last layers to be trained, with the loss of pairs."""
        del classes
        check_arithmetic(config.train, device)
        network = self.adapted.network() if self.adapted else load_lightglue(self.lightglue)
        loss, benchmark, rank = config.loss, config.benchmark, config.matcher.rank
        random = torch.Generator().manual_seed(config.seed)
        for part in (*network.layers[LAYERS - config.matcher.layers :], network.assignments[-1]):
            if rank is None:
                part.requires_grad_(True)
            else:
                add_adapters(part, rank, random)
        summed = benchmark.local_score == "confidence"
        head = PairLoss(
            margin=loss.margin,
            log_loss_weight=loss.log_loss_weight,
            match_threshold=None if summed else benchmark.match_threshold,
        )
        return ModelWithLoss(network, head, config.train).to(device)

    def published(self, weights: Tensors) -> dict[str, object]:
        """The weights with the name of the local features that they are for."""
        return checkpoint_content(self.extractor, merged(weights))

    def open(self, training: Training, world: World) -> MatcherWork:
        """The part of this worker."""
        return MatcherWork(self, training, world)


class MatcherWork:
    """One worker's pairs; see `exreid.training.state.Work`."""

    def __init__(self, task: MatcherTask, training: Training, world: World) -> None:
        self.task, self.training, self.world = task, training, world
        self.features_of, self.mined, self.mined_at = task.features(), task.mined, 0

    def begin_epoch(self, epoch: int, module: nn.Module) -> None:
        """Mine again every ``mine.every`` epochs, or read what was mined in this epoch before."""
        every = self.training.config.mine.every
        due = epoch - epoch % every if every else 0
        if due == self.mined_at:
            return
        file, world = self.training.folder / mined_file(due), self.world
        mirror.fetch_folder(file.parent, file.name)
        mine, known = self.task.mine, world.sum(float(world.is_first and file.is_file())) > 0
        if known:
            self.mined = read_mined_file(file, mine.image_ids)
        elif due == epoch:
            score_P = self._scores(module, *mine.position_N[mine.pair_P2].T)
            self.mined = mine.pairs(score_P, self.training.config)
            if world.is_first:
                write_table(file, self.mined.table)
        else:
            raise CheckpointError(
                f"{file}: is missing, and epoch {epoch + 1} goes on with its pairs. Put it there, "
                "or train from the beginning under another output.run_id."
            )
        self.mined_at = due

    def batches(self, epoch: int, shares: list[Share]) -> Iterator[tuple[ImagePairs, torch.Tensor]]:
        """The pairs (b U) of each share, anchor by anchor, and the anchors' labels."""
        return read_ahead(self._batch(epoch, share) for share in shares)

    def _batch(self, epoch: int, share: Share) -> tuple[ImagePairs, torch.Tensor]:
        config, device = self.training.config, self.world.device
        empty = np.zeros(1, np.int64)
        draw_b, item_b = (share.draw_b, share.image_b) if len(share.draw_b) else (empty, empty)
        uniform_bU = uniforms(config.seed, epoch, draw_b, 1 + config.mine.drawn)
        pair_P2 = draw_batch(self.mined, item_b, uniform_bU).reshape(-1, 2)
        position_U, row_P2 = np.unique(self.task.mine.position_N[pair_P2], return_inverse=True)
        pairs = image_pairs(self.features_of(position_U), row_P2.reshape(-1, 2), device)
        return pairs, on_device(self.training.label_N[item_b], device)

    def validate(self, module: nn.Module) -> Validated:
        """The shortlists re-ranked by the network as a probe does it, exactly."""
        lists, config = self.task.validation, self.training.config
        first_P = lists.queries.position_N[lists.query_P]
        second_P = lists.gallery.position_N[lists.gallery_P]
        score_P = self._scores(module, first_P, second_P)
        if not self.world.is_first:
            return {}, {}
        ranking = rerank_shortlist(lists.ranking, lists.gallery, lists.shortlist, score_P)
        shortlist, identity_Q = config.benchmark.candidate_k, lists.queries.identity_N
        return validated(ranking, identity_Q, seed=config.seed, shortlist=shortlist)

    def _scores(self, module: nn.Module, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
        """The score of each pair of positions, float64, in every worker; each scores its share of
        the tiles, which do not depend on how many workers there are."""
        device, task = self.world.device, self.task
        tiles = list(plan_tiles(first_P, second_P, pairs_per_tile=TILE_PAIRS[device.type]))
        matcher = LightGlueMatcher(module.eval(), task.settings, device)  # type: ignore[arg-type]
        own = []
        for tile in tiles[self.world.rank :: self.world.size]:
            sides = self.features_of(tile.query_M), self.features_of(tile.gallery_M)
            evidence = score_tile(matcher, *sides, tile.pair_P2)
            own.append(
                (tile.place_P, score_of(evidence, self.training.config.benchmark.local_score))
            )
        score_P = np.zeros(len(first_P))
        for scored in self.world.gather(own):
            for place_P, part_P in scored:
                score_P[place_P] = part_P
        return score_P


def mined_file(epoch: int) -> str:
    """The name of the file of pairs that are trained with from this epoch (from 0) on."""
    return f"mined-{epoch}.parquet"


def read_mined_file(file: Path, image_ids: tuple[str, ...]) -> MinedPairs:
    """The pairs in the file; CheckpointError where it is of other images, or damaged."""
    remedy = "It has not the pairs of these images. Delete it, and the pairs are mined again."
    with reading(file, CheckpointError, remedy):
        return read_mined(pq.read_table(file), image_ids)


def image_pairs(features: LocalFeatures, pair_P2: np.ndarray, device: torch.device) -> ImagePairs:
    """The features of U images on the device, with the rows of each pair's two."""
    return ImagePairs(
        on_device(features.keypoints_NK2, device),
        on_device(features.descriptors_NKL, device),
        on_device(features.count_N.astype(np.int64), device),
        on_device(features.image_wh_px_N2.astype(np.int64), device),
        on_device(features.frame_NKF, device),
        on_device(pair_P2, device),
    )
