"""The fusing part of a probe: calibration on the database, fused scores of the shortlist."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from exreid.calibration.budget import BudgetRule, fit_budget_rule
from exreid.calibration.fusion import FusedScores, Fusion, HeldOut, fit_fusion, sum_in_order
from exreid.calibration.pairs import CalibrationPairs
from exreid.config.probe import ProbeConfig
from exreid.errors import CalibrationError
from exreid.explain.plots import draw_reliability
from exreid.features.embedding import describe_fingerprint
from exreid.matching.shortlist import rerank_shortlist, shortlist_pairs
from exreid.metrics.ranking import Exclude
from exreid.metrics.reliability import brier_score, expected_calibration_error, reliability
from exreid.pipeline.budget import BudgetSpent, spend_budget
from exreid.pipeline.calibration_draw import DrawnPairs, choosing_looks, draw_pairs
from exreid.pipeline.methods import Method
from exreid.records import Ranking, RetrievalSide
from exreid.storage import mirror
from exreid.storage.run_folder import write_table, write_text

log = logging.getLogger(__name__)

FUSION_FILE = "fusion.json"
OF_IMAGES = (
    *("image_size", "resize", "no_background", "crop_to_mask", "crop_margin", "fill_rgb"),
    "reduced_decode",
)
OF_LOCAL = (
    *("local_top_k", "local_size", "local_square", "local_masks", "match_threshold"),
    *("local_score", "geometry", "precision"),
)


class FusionStage:
    """Calibrates the methods and fuses their scores; `counts` says on what."""

    def __init__(self, config: ProbeConfig, methods: Sequence[Method], folder: Path) -> None:
        self.config, self.methods, self.folder = config, methods, folder
        self.names = tuple(method.name for method in methods)
        if len(set(self.names)) < len(self.names):
            raise CalibrationError(
                f"the methods to fuse are {', '.join(self.names)}: each may stand there once. "
                "Change benchmark.fusion."
            )
        self.local_M = np.array([method.kind == "local" for method in methods])
        self.counts: dict[str, Any] = {}
        self.rule: BudgetRule | None = None
        self.spent: BudgetSpent | None = None

    def calibrate(
        self,
        gallery: RetrievalSide,
        vectors_ND: np.ndarray,
        left_out: np.ndarray | None = None,
    ) -> None:
        """Load the fusion, or fit it on pairs of the gallery; ``vectors_ND``, in the table's
        order, say which pairs are near. Nothing is fitted on animals that are ``left_out``.

        Where looks choose the pairs that are matched in full (precision=fast), it is fitted on
        pairs that were chosen in the same way: among those, the same score means more.
        """
        options = self.config.benchmark.calibration
        if options.load is not None:
            self.fusion = self._loaded(
                mirror.local_copy(options.load, key="benchmark.calibration.load")
            )
            return

        drawn = draw_pairs(
            self.config,
            gallery,
            vectors_ND,
            self._scores,
            left_out=left_out,
            looks_choose=bool(self.local_M.any()) and len(choosing_looks(self.config)) > 1,
        )
        pairs, score_PM = drawn.pairs, drawn.score_PM
        self.fusion, held = fit_fusion(
            score_PM,
            pairs,
            self.names,
            kind=options.kind,
            weights=self.config.benchmark.fusion.weights,
            listed_P=drawn.listed_P,
        )
        self.rule = self._budget_rule(score_PM, pairs)
        self._write_calibration(drawn, held)

    def _budget_rule(self, score_PM: np.ndarray, pairs: CalibrationPairs) -> BudgetRule | None:
        if not self.local_M.any():
            return None
        fused = self.fusion.apply(score_PM)
        return fit_budget_rule(
            score_PM[:, ~self.local_M],
            sum_in_order(fused.contribution_PM[:, self.local_M]),
            fused.score_P,
            pairs.same_P,
            pairs.weight_P,
        )

    def rerank(
        self,
        ranking: Ranking,
        queries: RetrievalSide,
        gallery: RetrievalSide,
        exclude: Exclude,
    ) -> Ranking:
        """The ranking with its shortlist in the order of the fused score; a pair that lacks a
        local score stands below all that have theirs."""
        benchmark = self.config.benchmark
        shortlist = benchmark.candidate_k or len(gallery)
        query_P, gallery_P = shortlist_pairs(ranking, shortlist)
        place_P = queries.position_N[query_P], gallery.position_N[gallery_P]
        if benchmark.adaptive.enabled:
            assert self.rule is not None
            self.spent = spend_budget(
                self.rule,
                self.fusion,
                self.methods,
                options=benchmark.adaptive,
                pairs=(query_P, gallery_P),
                queries=queries,
                gallery=gallery,
                exclude=exclude,
            )
            score_PM = self.spent.score_PM
        else:
            score_PM = self._scores(*place_P, all_pairs=False, exclude=exclude)
        fused = self.fusion.apply(score_PM)
        self._pairs, self._raw, self._fused = (query_P, gallery_P), score_PM, fused
        return rerank_shortlist(ranking, gallery, shortlist, fused.methods_P, fused.score_P)

    def score_places(self, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
        """The fused scores of pairs of table positions, none left out."""
        score_PM = self._scores(first_P, second_P, all_pairs=True, exclude="image")
        return self.fusion.apply(score_PM).score_P

    def write_evidence(
        self, ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide
    ) -> None:
        """``fusion.parquet``: where the scores of the ranking that was made last come from; and
        ``budget.parquet``: what was spent on each query, where that was decided."""
        if self.spent is not None:
            table = self.spent.table(queries, self._pairs[0])
            write_table(self.folder / "budget.parquet", table)
            self.counts |= self.spent.counts(self._pairs[0], self.config.benchmark.adaptive.risk)
        kept_QK = ranking.candidate_index_QK[:, : self.config.benchmark.keep_candidates]
        query, place = np.nonzero(kept_QK >= 0)
        row = _row_of(query, kept_QK[query, place], *self._pairs, len(gallery))
        columns = {
            "query_id": [queries.image_ids[i] for i in query],
            "gallery_id": [gallery.image_ids[i] for i in kept_QK[query, place]],
            "rank": place + 1,
        }
        columns |= self._evidence(self._raw, self._fused, row)
        write_table(self.folder / "fusion.parquet", pa.table(columns))

    def _evidence(
        self, score_PM: np.ndarray, fused: FusedScores, row: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The columns of ``fusion.parquet`` that say where a score comes from."""
        columns = {"score": fused.score_P[row], "probability": fused.probability_P[row]}
        for m, name in enumerate(self.names):
            columns[f"raw:{name}"] = score_PM[row, m]
            columns[f"probability:{name}"] = fused.probability_PM[row, m]
            columns[f"contribution:{name}"] = fused.contribution_PM[row, m]
        return columns

    def _scores(
        self, first_P: np.ndarray, second_P: np.ndarray, *, all_pairs: bool, exclude: Exclude
    ) -> np.ndarray:
        columns = [
            method.score(first_P, second_P, all_pairs=all_pairs, exclude=exclude)
            for method in self.methods
        ]
        return np.stack(columns, axis=1)

    def _write_calibration(self, drawn: DrawnPairs, held: HeldOut) -> None:
        gallery, pairs, score_PM = drawn.gallery, drawn.pairs, drawn.score_PM
        prob_PM = np.column_stack([held.probability_PM, held.probability_P])
        before_PM = _scaled(score_PM)
        fused_before_P = sum_in_order(before_PM * np.array(self.fusion.weights))
        before_PM = np.column_stack([before_PM, fused_before_P])
        known_P = ~np.isnan(prob_PM).any(axis=1)
        figures: dict[str, dict[str, Any]] = {}
        if known_P.any():
            for m, name in enumerate((*self.names, "fused")):
                columns_2 = before_PM[:, m], prob_PM[:, m]
                figures[name] = _figures(*columns_2, pairs, known_P)
                if (known_P & drawn.shown_P).any():
                    figures[name]["shown"] = _figures(*columns_2, pairs, known_P & drawn.shown_P)
            drawn_P = known_P & drawn.shown_P if (known_P & drawn.shown_P).any() else known_P
            draw_reliability(
                self.folder / "reliability.png",
                {
                    name: reliability(
                        prob_PM[drawn_P, m],
                        pairs.same_P[drawn_P],
                        weight_P=pairs.weight_P[drawn_P],
                        equal_count=True,
                    )
                    for m, name in enumerate((*self.names, "fused"))
                },
            )
            self.counts["calibration_error_before"] = figures["fused"]["ece_before"]
            self.counts["calibration_error"] = figures["fused"]["ece"]
            self._say_how_far_it_holds(figures["fused"].get("shown"))
        positives = int(pairs.same_P.sum())
        self.counts |= {"calibration_pairs": len(pairs), "calibration_positives": positives}
        columns: dict[str, Any] = {
            "query_id": [gallery.image_ids[i] for i in pairs.first_P],
            "gallery_id": [gallery.image_ids[i] for i in pairs.second_P],
            "is_match": pairs.same_P,
            "weight": pairs.weight_P,
            "fold": pairs.fold_P,
            "is_shown": drawn.shown_P,
        }
        for m, name in enumerate(self.names):
            columns[f"raw:{name}"] = score_PM[:, m]
            columns[f"held_out:{name}"] = held.probability_PM[:, m]
        columns["held_out:fused"] = held.probability_P
        write_table(self.folder / "calibration_pairs.parquet", pa.table(columns))
        content = {
            "fingerprint": self.fusion.fingerprint,
            "made_for": self._made_for(),
            "held_out": figures,
            "fusion": json.loads(self.fusion.to_json()),
            "budget": json.loads(self.rule.to_json()) if self.rule else None,
        }
        write_text(self.folder / FUSION_FILE, json.dumps(content, indent=1) + "\n")

    def _say_how_far_it_holds(self, shown: dict[str, float] | None) -> None:
        """Of candidates such as a person sees: over all pairs, nearly all of which show two animals
        that nobody would mistake, any curve is nearly right."""
        if shown is None:
            return
        self.counts |= {
            "calibration_error_shown": shown["ece"],
            "brier_shown": shown["brier"],
            "brier_base_rate_shown": shown["brier_base_rate"],
        }
        if shown["brier"] >= shown["brier_base_rate"]:
            log.warning(
                "calibration: on candidates such as are shown, the probabilities are no better "
                "than stating the same %.1f%% for all of them (Brier score %.4f against %.4f). Do "
                "not go by them: raise benchmark.calibration.pairs, or use a stronger method.",
                100 * shown["base_rate"],
                shown["brier"],
                shown["brier_base_rate"],
            )

    def _made_for(self) -> dict[str, str]:
        """What each method's raw scores depend on, as a fingerprint."""
        config = self.config
        images = {name: getattr(config.dataset, name) for name in OF_IMAGES}
        models = iter((config.model, *config.benchmark.fusion.models))
        local = config.benchmark.model_dump(mode="json", include={*OF_LOCAL, "fast"})
        made_for: dict[str, str] = {}
        for method in self.methods:
            if method.kind == "global":
                settings = next(models).model_dump(mode="json", exclude={"batch_size"})
                if not made_for and config.benchmark.rerank.method != "none":
                    settings["rerank"] = config.benchmark.rerank.model_dump(mode="json")
            else:
                settings = local
            made_for[method.name] = describe_fingerprint({"images": images, "method": settings})
        return made_for

    def _loaded(self, file: Path) -> Fusion:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            fusion = Fusion.from_json(json.dumps(content["fusion"]))
            made_for = content["made_for"]
            rule = content.get("budget")
            self.rule = BudgetRule.from_json(json.dumps(rule)) if rule is not None else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(
                f"{file}: not a saved fusion ({error}). Set benchmark.calibration.load to the "
                f"{FUSION_FILE} of a completed wildfusion run."
            ) from error
        here = self._made_for()
        changed = [name for name in {**here, **made_for} if here.get(name) != made_for.get(name)]
        if changed or fusion.methods != self.names:
            raise CalibrationError(
                f"{file}: fitted for {', '.join(fusion.methods)}, and this run fuses "
                f"{', '.join(self.names)}; the settings differ for {', '.join(changed) or 'none'}. "
                "Fit one with these settings: leave benchmark.calibration.load unset."
            )
        if self.config.benchmark.adaptive.enabled and self.rule is None:
            raise CalibrationError(
                f"{file}: it holds no budget rule, which benchmark.adaptive needs. Fit one: leave "
                "benchmark.calibration.load unset."
            )
        write_text(self.folder / FUSION_FILE, json.dumps(content, indent=1) + "\n")
        return fusion


def _row_of(
    query: np.ndarray, index: np.ndarray, query_P: np.ndarray, gallery_P: np.ndarray, width: int
) -> np.ndarray:
    """Where each (query, gallery index) stands in the list of pairs, which is by query."""
    key_P = query_P.astype(np.int64) * width + gallery_P
    order_P = np.argsort(key_P)
    return order_P[np.searchsorted(key_P[order_P], query.astype(np.int64) * width + index)]


def _scaled(score_PM: np.ndarray) -> np.ndarray:
    """Raw scores from 0 to 1 by their range: what they would say as probabilities."""
    low_M, high_M = score_PM.min(axis=0), score_PM.max(axis=0)
    return np.asarray((score_PM - low_M) / (high_M - low_M))


def _figures(
    before_P: np.ndarray, prob_P: np.ndarray, pairs: CalibrationPairs, rows_P: np.ndarray
) -> dict[str, Any]:
    """Of these pairs the held-out calibration error and Brier score; those of raw scores and of
    the base rate."""
    before_P, prob_P = before_P[rows_P], prob_P[rows_P]
    same_P, weight_P = pairs.same_P[rows_P], pairs.weight_P[rows_P]
    base = np.full(len(same_P), np.average(same_P, weights=weight_P))
    return {
        "pairs": len(same_P),
        "base_rate": float(base[0]),
        "ece_before": expected_calibration_error(before_P, same_P, weight_P=weight_P),
        "ece": expected_calibration_error(prob_P, same_P, weight_P=weight_P),
        "brier_before": brier_score(before_P, same_P, weight_P=weight_P),
        "brier": brier_score(prob_P, same_P, weight_P=weight_P),
        "brier_base_rate": brier_score(base, same_P, weight_P=weight_P),
    }
