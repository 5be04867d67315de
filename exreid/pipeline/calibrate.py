"""The fusion of a probe's methods: fitted on pairs of the gallery, or loaded; and its files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from exreid.calibration.budget_rule import BudgetRule, fit_budget_rule
from exreid.calibration.fusion import Fusion, HeldOut, fit_fusion, sum_in_order
from exreid.calibration.pairs import CalibrationPairs
from exreid.config.probe import ProbeConfig
from exreid.data.images import crop_description
from exreid.errors import CalibrationError
from exreid.explain.plots import draw_reliability
from exreid.features.keys import describe_fingerprint
from exreid.matching.cascade import choosing_stages
from exreid.matching.local_index import SELECTIVITY
from exreid.metrics.reliability import brier_score, expected_calibration_error, reliability
from exreid.pipeline.calibration_draw import DrawnPairs, RankGallery, draw_pairs
from exreid.pipeline.methods import Method
from exreid.records import Counts, RetrievalSide
from exreid.storage import mirror
from exreid.storage.run_folder import write_table, write_text

log = logging.getLogger(__name__)

FUSION_FILE = "fusion.json"
OF_IMAGES = (
    *("image_size", "resize", "no_background", "crop_margin", "fill_rgb", "reduced_decode"),
)
OF_LOCAL = (
    *("local_top_k", "local_size", "local_square", "local_masks", "match_threshold"),
    *("local_score", "geometry", "precision"),
)
OF_INDEX = ("local_top_k", "local_size", "local_square", "local_masks", "index_neighbours")


@dataclass(frozen=True)
class FittedFusion:
    """The fused methods, how their raw scores become one, and when the local matching of a query
    may stop."""

    methods: tuple[Method, ...]
    fusion: Fusion
    rule: BudgetRule | None = None
    """None where no local method is fused."""


def calibrated(
    config: ProbeConfig,
    methods: tuple[Method, ...],
    gallery: RetrievalSide,
    rank: RankGallery,
    *,
    folder: Path,
    left_out: np.ndarray | None = None,
) -> tuple[FittedFusion, Counts]:
    """The fusion, loaded or fitted on pairs of the gallery; and counts for the result.

    ``rank`` decides which pairs are near. Identities that are
    ``left_out`` take no part in the fit. Where a cascade chooses the pairs that are matched in full
    (precision=fast), the fit is on pairs that were chosen in the same way: among those, the same
    score means more. Written into ``folder``: ``fusion.json``, ``calibration_pairs.parquet`` and
    ``reliability.png``.
    """
    options = config.benchmark.calibration
    if options.load is not None:
        file = mirror.local_copy(options.load, key="benchmark.calibration.load")
        return _loaded(config, methods, file, folder), {}
    has_local = any(method.kind == "local" for method in methods)
    weights = config.benchmark.fusion.weights
    cascade_chooses = has_local and len(choosing_stages(config)) > 1
    whole_lists = cascade_chooses or weights == "listwise"
    drawn = draw_pairs(config, gallery, rank, methods, left_out=left_out, whole_lists=whole_lists)
    fusion, held_out = fit_fusion(
        drawn.score_PM,
        drawn.pairs,
        tuple(method.name for method in methods),
        kind=options.kind,
        weights=weights,
        listed_P=drawn.listed_P,
    )
    fitted = FittedFusion(methods, fusion, _budget_rule(fusion, methods, drawn))
    return fitted, _written(config, fitted, drawn, held_out, folder)


def _budget_rule(fusion: Fusion, methods: Sequence[Method], drawn: DrawnPairs) -> BudgetRule | None:
    local_M = np.array([method.kind == "local" for method in methods])
    if not local_M.any():
        return None
    fused, pairs = fusion.apply(drawn.score_PM), drawn.pairs
    return fit_budget_rule(
        drawn.score_PM[:, ~local_M],
        sum_in_order(fused.contribution_PM[:, local_M]),
        fused.score_P,
        pairs.same_P,
        pairs.weight_P,
    )


def _written(
    config: ProbeConfig,
    fitted: FittedFusion,
    drawn: DrawnPairs,
    held_out: HeldOut,
    folder: Path,
) -> Counts:
    """Write the fusion, its pairs and its held-out reliability; returns the counts."""
    names, pairs, fusion = fitted.fusion.methods, drawn.pairs, fitted.fusion
    counts: Counts = {}
    prob_PM = np.column_stack([held_out.probability_PM, held_out.probability_P])
    known_P = ~np.isnan(prob_PM).any(axis=1)
    own: dict[str, dict[str, float]] = {}
    shown: dict[str, dict[str, float]] = {}
    if known_P.any():
        before_PM = _scaled(drawn.score_PM)
        added_PM = drawn.score_PM if fusion.of_raw else before_PM
        fused_P = sum_in_order(added_PM * np.array(fusion.weights))[:, None]
        before_PM = np.column_stack([before_PM, _scaled(fused_P) if fusion.of_raw else fused_P])
        shown_P = known_P & drawn.shown_P
        for m, name in enumerate((*names, "fused")):
            own[name] = _figures(before_PM[:, m], prob_PM[:, m], pairs, known_P)
            if shown_P.any():
                shown[name] = _figures(before_PM[:, m], prob_PM[:, m], pairs, shown_P)
        drawn_P = shown_P if shown_P.any() else known_P
        curves = {
            name: reliability(
                prob_PM[drawn_P, m],
                pairs.same_P[drawn_P],
                weight_P=pairs.weight_P[drawn_P],
                equal_count=True,
            )
            for m, name in enumerate((*names, "fused"))
        }
        fused = reliability(
            prob_PM[drawn_P, -1], pairs.same_P[drawn_P], weight_P=pairs.weight_P[drawn_P]
        )
        draw_reliability(folder / "reliability.png", fused, curves)
        counts["calibration_error_before"] = own["fused"]["ece_before"]
        counts["calibration_error"] = own["fused"]["ece"]
        counts |= _shown_counts(shown.get("fused"))
    counts |= {"calibration_pairs": len(pairs), "calibration_positives": int(pairs.same_P.sum())}
    write_table(folder / "calibration_pairs.parquet", _pair_table(names, drawn, held_out))
    content = {
        "fingerprint": fusion.fingerprint,
        "made_for": _made_for(config, fitted.methods),
        "held_out": {
            name: {**values, **({"shown": shown[name]} if shown else {})}
            for name, values in own.items()
        },
        "fusion": fusion.as_json(),
        "budget": fitted.rule.as_json() if fitted.rule else None,
    }
    write_text(folder / FUSION_FILE, json.dumps(content, indent=1) + "\n")
    return counts


def _pair_table(names: Sequence[str], drawn: DrawnPairs, held_out: HeldOut) -> pa.Table:
    """``calibration_pairs.parquet``."""
    pairs, ids = drawn.pairs, drawn.gallery.image_ids
    columns: dict[str, Sequence[str] | np.ndarray] = {
        "query_id": [ids[i] for i in pairs.first_P],
        "gallery_id": [ids[i] for i in pairs.second_P],
        "is_match": pairs.same_P,
        "weight": pairs.weight_P,
        "fold": pairs.fold_P,
        "is_shown": drawn.shown_P,
    }
    for m, name in enumerate(names):
        columns[f"raw:{name}"] = drawn.score_PM[:, m]
        columns[f"held_out:{name}"] = held_out.probability_PM[:, m]
    columns["held_out:fused"] = held_out.probability_P
    return pa.table(columns)


def _shown_counts(shown: dict[str, float] | None) -> Counts:
    """The reliability on candidates that a person is shown, with a warning where it is no better
    than the base rate. Over all pairs, nearly all of which show two identities that nobody would
    mistake, any curve is nearly right."""
    if shown is None:
        return {}
    if shown["brier"] >= shown["brier_base_rate"]:
        log.warning(
            "calibration: on candidates such as are shown, the probabilities are no better "
            "than stating the same %.1f%% for all of them (Brier score %.4f against %.4f). Do "
            "not go by them: raise benchmark.calibration.pairs, or use a stronger method.",
            100 * shown["base_rate"],
            shown["brier"],
            shown["brier_base_rate"],
        )
    return {
        "calibration_error_shown": shown["ece"],
        "brier_shown": shown["brier"],
        "brier_base_rate_shown": shown["brier_base_rate"],
    }


def _scaled(score_PM: np.ndarray) -> np.ndarray:
    """Raw scores scaled to 0..1 by their range, to be compared with probabilities."""
    low_M, high_M = score_PM.min(axis=0), score_PM.max(axis=0)
    return np.asarray((score_PM - low_M) / (high_M - low_M))


def _figures(
    before_P: np.ndarray, prob_P: np.ndarray, pairs: CalibrationPairs, rows_P: np.ndarray
) -> dict[str, float]:
    """The held-out calibration error and Brier score of these pairs, and those of their raw scores
    and of the base rate."""
    before_P, prob_P = before_P[rows_P], prob_P[rows_P]
    same_P, weight_P = pairs.same_P[rows_P], pairs.weight_P[rows_P]
    base_P = np.full(len(same_P), np.average(same_P, weights=weight_P))
    return {
        "pairs": len(same_P),
        "base_rate": float(base_P[0]),
        "ece_before": expected_calibration_error(before_P, same_P, weight_P=weight_P),
        "ece": expected_calibration_error(prob_P, same_P, weight_P=weight_P),
        "brier_before": brier_score(before_P, same_P, weight_P=weight_P),
        "brier": brier_score(prob_P, same_P, weight_P=weight_P),
        "brier_base_rate": brier_score(base_P, same_P, weight_P=weight_P),
    }


def _made_for(config: ProbeConfig, methods: Sequence[Method]) -> dict[str, str]:
    """A fingerprint of the settings that each method's raw scores depend on."""
    images = {name: getattr(config.dataset, name) for name in OF_IMAGES}
    images |= crop_description(config.dataset.cropped)
    models = iter((config.model, *config.benchmark.fusion.models))
    local = config.benchmark.model_dump(mode="json", include={*OF_LOCAL, "fast"})
    index = config.benchmark.model_dump(mode="json", include={*OF_INDEX})
    index["selectivity"] = SELECTIVITY
    made_for: dict[str, str] = {}
    for method in methods:
        if method.kind == "global":
            settings = next(models).model_dump(mode="json", exclude={"batch_size"})
            if not made_for and config.benchmark.rerank.method != "none":
                settings["rerank"] = config.benchmark.rerank.model_dump(mode="json")
        else:
            settings = local if method.kind == "local" else index
        made_for[method.name] = describe_fingerprint({"images": images, "method": settings})
    return made_for


def _loaded(
    config: ProbeConfig, methods: tuple[Method, ...], file: Path, folder: Path
) -> FittedFusion:
    """The fusion of another run, copied into this run's folder; CalibrationError for any other
    file, and for one that was fitted for other methods or settings."""
    names = tuple(method.name for method in methods)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        fusion = Fusion.from_json(content["fusion"])
        made_for = content["made_for"]
        saved = content.get("budget")
        rule = BudgetRule.from_json(saved) if saved is not None else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(
            f"{file}: not a saved fusion ({error}). Set benchmark.calibration.load to the "
            f"{FUSION_FILE} of a completed wildfusion run."
        ) from error
    own = _made_for(config, methods)
    changed = [name for name in {**own, **made_for} if own.get(name) != made_for.get(name)]
    if changed or fusion.methods != names:
        raise CalibrationError(
            f"{file}: fitted for {', '.join(fusion.methods)}, and this run fuses "
            f"{', '.join(names)}; the settings differ for {', '.join(changed) or 'none'}. "
            "Fit one with these settings: leave benchmark.calibration.load unset."
        )
    if config.benchmark.adaptive.enabled and rule is None:
        raise CalibrationError(
            f"{file}: it has no budget rule, which benchmark.adaptive needs. Fit one: leave "
            "benchmark.calibration.load unset."
        )
    write_text(folder / FUSION_FILE, json.dumps(content, indent=1) + "\n")
    return FittedFusion(methods, fusion, rule)
