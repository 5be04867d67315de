"""Retrieval by the book: the whole matrix, a full sort per query, plain loops."""

import numpy as np


def naive_queries(scores_QG, queries, gallery, exclude="image"):
    """Per query: (gallery indices best first, ranks of positives, rank of the identity)."""
    found = []
    for q in range(len(queries)):
        candidates = []
        for g in range(len(gallery)):
            same_image = queries.position_N[q] == gallery.position_N[g]
            encounter = queries.encounter_N[q]
            same_visit = encounter >= 0 and encounter == gallery.encounter_N[g]
            if not same_image and not (exclude == "encounter" and same_visit):
                candidates.append(g)
        ordered = sorted(candidates, key=lambda g: (-scores_QG[q, g], g))
        matches = [gallery.identity_N[g] == queries.identity_N[q] for g in ordered]
        ranks = [rank for rank, match in enumerate(matches, start=1) if match]
        seen = list(dict.fromkeys(int(gallery.identity_N[g]) for g in ordered))
        own = int(queries.identity_N[q])
        found.append((ordered, ranks, seen.index(own) + 1 if own in seen else 0))
    return found


def naive_metrics(found, identities, top_k):
    """The metrics of `naive_queries`, averaged with plain loops."""
    first = [ranks[0] if ranks else np.inf for _, ranks, _ in found]
    precision = [
        np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]) if ranks else 0.0
        for _, ranks, _ in found
    ]
    penalty = [len(ranks) / ranks[-1] if ranks else 0.0 for _, ranks, _ in found]
    positive = [bool(ranks) for _, ranks, _ in found]
    metrics = {f"top_{k}": np.mean([rank <= k for rank in first]) for k in top_k}
    metrics |= {f"identity_top_{k}": np.mean([0 < i <= k for _, _, i in found]) for k in top_k}
    metrics["mAP"], metrics["mINP"] = np.mean(precision), np.mean(penalty)
    if any(positive):
        metrics["mAP_with_positive"] = np.mean(np.array(precision)[positive])
        metrics["mINP_with_positive"] = np.mean(np.array(penalty)[positive])
    per_identity = {}
    for identity, rank in zip(identities, first, strict=True):
        per_identity.setdefault(int(identity), []).append(rank == 1)
    metrics["balanced_top_1"] = np.mean([np.mean(hits) for hits in per_identity.values()])
    return metrics
