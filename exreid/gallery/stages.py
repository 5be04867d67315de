"""The probe's stages for a gallery: for the one that is built, added to, or asked."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from exreid.config.benchmark import ModelConfig
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import codes, retrieval_sides
from exreid.features.extraction import ExtractionReport, known_keys
from exreid.features.local import EXTRACTORS
from exreid.features.local_extraction import LocalFeatureStore
from exreid.gallery.folder import PAIRS, Gallery, check_features
from exreid.metrics.identities import leaders
from exreid.metrics.openset import Answers
from exreid.models.lightglue import lightglue_fingerprint
from exreid.openset.decide import OpenSet, Practice
from exreid.openset.group import NewAnimals
from exreid.pipeline.crossfit import Fold
from exreid.pipeline.fuse import FUSION_FILE, FusionStage
from exreid.pipeline.inputs import cache_folder, embedding_description, embedding_folder
from exreid.pipeline.match import STAGE_VERSION, LocalImages
from exreid.pipeline.stages import Ranked, Stages
from exreid.progress import Progress
from exreid.records import Embeddings, ImageTable, PairEvidence, RetrievalSide
from exreid.storage.feature_store import FeatureStore, SignatureMemo
from exreid.storage.pair_store import PairStore, pair_records
from exreid.storage.run_folder import write_text

if TYPE_CHECKING:
    from exreid.models.backbones import Backbone


class GalleryStages(Stages):
    """The stages of a table whose first images are those of an opened gallery, where there is one:
    their features are taken from it, and only those of the images after them are made."""

    def __init__(
        self,
        config: ProbeConfig,
        folder: Path,
        progress: Progress,
        verbose: bool,
        timings_s: dict[str, float],
        *,
        gallery: Gallery | None = None,
    ) -> None:
        super().__init__(config, folder, progress, verbose, timings_s)
        self.gallery = gallery
        self.known = 0 if gallery is None else len(gallery)
        self.features: dict[str, Any] = {}
        """What each kind of features depends on besides the images."""
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        """Of each backbone, by number, that has its weights from a checkpoint."""

    def _embeddings(
        self, table: ImageTable, config: ProbeConfig, backbone: Backbone
    ) -> tuple[Embeddings, np.ndarray, ExtractionReport]:
        number = len(self.embeddings)
        name = f"global-{number}"
        self.features[name] = embedding_description(config, backbone, "cpu")
        if config.model.checkpoint is not None:
            state = backbone.module.state_dict()
            self.weights[number] = {key: tensor.clone() for key, tensor in state.items()}
        if self.gallery is None:
            return super()._embeddings(table, config, backbone)
        check_features(self.gallery, name, self.features[name])
        if len(table) == self.known:
            ids = tuple(table.rows["image_id"])
            kept = Embeddings(ids, np.asarray(self.gallery.vectors(number)))
            return kept, np.arange(self.known), ExtractionReport()
        new, positions, report = super()._embeddings(self._new(table), config, backbone)
        ids = tuple(table.rows["image_id"].iloc[: self.known]) + new.image_ids
        vectors_ND = np.concatenate([self.gallery.vectors(number), new.vectors_ND])
        return Embeddings(ids, vectors_ND), self._all(positions), report

    def _local_images(self, table: ImageTable, config: ProbeConfig) -> LocalImages:
        name = config.benchmark.local_features
        images = super()._local_images(self._new(table), config)
        matcher_name = EXTRACTORS[name].matcher
        assert matcher_name is not None, "the config refuses features without a matcher"
        self.features[f"local-{name}"] = {
            "features": images.description,
            "matcher": {
                "weights": lightglue_fingerprint(matcher_name),
                "stage_version": STAGE_VERSION,
            },
        }
        if self.gallery is None:
            return images
        check_features(self.gallery, f"local-{name}", self.features[f"local-{name}"])
        kept = self.gallery.local_store(name).store.folder
        store = LocalFeatureStore(
            images.store.store.folder, name, config.benchmark.local_top_k, kept
        )
        keys = [*self.gallery.keys, *images.keys]
        return replace(images, positions=self._all(images.positions), keys=keys, store=store)

    def _new(self, table: ImageTable) -> ImageTable:
        return table.take(np.arange(self.known, len(table)))

    def _all(self, new_positions: np.ndarray) -> np.ndarray:
        return np.concatenate([np.arange(self.known), self.known + new_positions])


class BuildStages(GalleryStages):
    """The stages of a gallery that is built or added to: all images are the gallery."""

    def __init__(self, *arguments: Any, gallery: Gallery | None = None) -> None:
        super().__init__(*arguments, gallery=gallery)
        self.kept_pairs: dict[str, list[np.ndarray]] = {}
        """Records of the pairs that were asked for, by the name of their store."""
        self.looks.open_pairs = self._open_pairs

    def sides(self, table: ImageTable) -> tuple[RetrievalSide, RetrievalSide]:
        """The gallery, on both sides."""
        every = np.arange(len(table))
        return retrieval_sides(table, every, every)

    def _calibrated(
        self, gallery: RetrievalSide, table: ImageTable, fold: Fold | None = None
    ) -> FusionStage:
        old = self.gallery
        if old is None or old.manifest["calibration"] != "loaded":
            return super()._calibrated(gallery, table, fold)
        return with_fusion_of(old, self.fusion_stage(table, self.folder), self.folder)

    def _open_pairs(self, folder: Path) -> PairStore:
        also = () if self.gallery is None else (self.gallery.folder / PAIRS / folder.name,)
        return _NotingStore(self.kept_pairs.setdefault(folder.name, []), folder, *also)


class _NotingStore(PairStore):
    """Notes all pairs that are found in it or added to it."""

    def __init__(self, notes: list[np.ndarray], folder: Path, *also: Path) -> None:
        super().__init__(folder, *also)
        self.notes = notes

    def find(self, words_P2: np.ndarray) -> tuple[np.ndarray, PairEvidence]:
        """As `PairStore.find`."""
        known_P, evidence = super().find(words_P2)
        part = PairEvidence(
            evidence.match_count_P[known_P],
            evidence.confidence_sum_P[known_P],
            evidence.inlier_count_P[known_P],
        )
        self._note(words_P2[known_P], part)
        return known_P, evidence

    def append(self, words_P2: np.ndarray, evidence: PairEvidence) -> None:
        """As `PairStore.append`."""
        super().append(words_P2, evidence)
        self._note(words_P2, evidence)

    def _note(self, words_P2: np.ndarray, evidence: PairEvidence) -> None:
        self.notes.append(pair_records(words_P2, evidence))


class IdentifyStages(GalleryStages):
    """The stages of photographs to be identified: all that is fitted is the gallery's."""

    gallery: Gallery

    def _embed(self, table: ImageTable, model: ModelConfig) -> ImageTable:
        """Without the backbone, whose import and weights take seconds, where all is in the cache:
        what lies there was made by one that is described as the gallery's."""
        number = len(self.embeddings)
        new_ND = self._remembered(self._new(table), self.gallery.manifest["features"], number)
        if new_ND is None:
            return super()._embed(table, model)
        vectors_ND = np.concatenate([self.gallery.vectors(number), new_ND])
        self.embeddings.append(Embeddings(tuple(table.rows["image_id"]), vectors_ND))
        self._add({"images_cached": len(new_ND), "images_extracted": 0})
        return table

    def _remembered(
        self, new: ImageTable, features: dict[str, Any], number: int
    ) -> np.ndarray | None:
        description = features.get(f"global-{number}", {})
        here = {"torch": torch.__version__, "timm": version("timm")}
        folder = embedding_folder(self.config, description)
        if not folder.is_dir() or any(description.get(name) != here[name] for name in here):
            return None
        store = FeatureStore(folder, description)
        keys = known_keys(new, SignatureMemo(cache_folder(self.config) / "signatures"))
        found = [key for key in keys if key is not None and key in store]
        return store.gather(found) if len(found) == len(new) else None

    def sides(self, table: ImageTable) -> tuple[RetrievalSide, RetrievalSide]:
        """The photographs after the gallery's, each as if of an animal of its own."""
        gallery_G = np.arange(self.known)
        query_Q = np.arange(self.known, len(table))
        identity_G, _ = codes(table.rows["identity"].iloc[gallery_G].tolist(), [])
        encounter = table.rows["encounter"].to_numpy(dtype=object)
        encounter_Q, encounter_G = codes(encounter[query_Q], encounter[gallery_G])
        ids = table.rows["image_id"].to_numpy(dtype=object)
        unknown_Q = (identity_G.max() + 1 + np.arange(len(query_Q))).astype(np.int32)
        return (
            RetrievalSide(tuple(ids[query_Q]), query_Q, unknown_Q, encounter_Q),
            RetrievalSide(tuple(ids[gallery_G]), gallery_G, identity_G, encounter_G),
        )

    def _queries_are_the_database(self) -> bool:
        """Whatever the gallery's images were split into, new photographs are no part of it."""
        return False

    def learn(
        self, gallery: RetrievalSide, table: ImageTable, fold: Fold | None = None
    ) -> tuple[FusionStage | None, Practice | None]:
        """The gallery's own fusion; nothing is fitted."""
        self.prepare_reranking(gallery, table)
        if self.config.benchmark.method != "wildfusion":
            return None, None
        stage = self.fusion_stage(table, self.folder)
        return with_fusion_of(self.gallery, stage, self.folder), None

    def _decide(
        self,
        answered: Ranked,
        fusion: FusionStage | None,
        practice: Practice | None,
        fold: Fold | None,
    ) -> OpenSet | None:
        """By the bar and the cut that were fitted when the gallery was built."""
        decider, grouping = self.gallery.decider(), self.gallery.grouping()
        if decider is None:
            return None
        found = leaders(answered.ranking, answered.gallery.identity_N)
        probability_Q = decider.probability(found)
        known_Q = probability_Q > decider.bar
        none = np.zeros(0)
        elsewhere = Answers(none, none.astype(bool), none.astype(bool), none.astype(np.int32))
        new_animals = None
        if grouping is not None:
            new_Q = np.flatnonzero(~known_Q)
            grouper = self.grouper(answered.table, fusion)
            group_N = grouper.group(answered.queries.take(new_Q), grouping)
            new_animals = NewAnimals(new_Q, group_N, grouping)
        return OpenSet((decider,), elsewhere, found, probability_Q, known_Q, new_animals)


def with_fusion_of(gallery: Gallery, stage: FusionStage, folder: Path) -> FusionStage:
    """The stage with the gallery's fusion and budget rule, of which the run keeps a copy."""
    stage.fusion, stage.rule = gallery.fusion(), gallery.budget_rule()
    text = gallery.file(FUSION_FILE).read_text(encoding="utf-8")
    write_text(folder / FUSION_FILE, text)
    return stage
