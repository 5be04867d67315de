"""The tables of new photographs' answers, and of their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from exreid.calibration.identity_curve import shared_out
from exreid.config.probe import ProbeConfig
from exreid.data.metadata_rows import encounter_name
from exreid.gallery.folder import StoredGallery
from exreid.metrics.identities import IdentityAnswer, TopIdentities, pool_encounters
from exreid.openset.decide import Decisions
from exreid.pipeline.answers import AnswerTables, answer_table, identity_names, new_animals_of
from exreid.pipeline.fit_and_retrieve import Retrieval
from exreid.records import ImageTable, Json, region_parts
from exreid.storage.run_files import IN_GALLERY

PictureFile = dict[str, str | None]
"""``root``, ``path`` and ``mask`` of a picture, and its ``bbox`` if it has one."""


def photo_answer_tables(
    retrieval: Retrieval, gallery: StoredGallery, config: ProbeConfig
) -> AnswerTables:
    """A probe's tables without the truth, which is not known; with the probability of each identity
    if the gallery has a curve for it, and without decisions if the gallery does not decide."""
    names, decisions = identity_names(retrieval), retrieval.decisions
    answers = without_truth(answer_table(retrieval, names, config))
    if decisions is not None:
        answers = _leaders_first(answers, retrieval, decisions, names)
    chance_R = _probabilities(retrieval, gallery, answers, names)
    answers = answers.append_column("probability", pa.array(chance_R, from_pandas=True))
    encounters = open_set = None
    if np.any(retrieval.queries.encounter_N >= 0):
        encounters = _encounter_table(retrieval, names, decides=gallery.decides)
    if decisions is not None:
        open_set = _open_set_table(retrieval, decisions, names, decides=gallery.decides)
    return AnswerTables(answers, encounters, open_set, new_animals_of(retrieval))


def _leaders_first(
    answers: pa.Table, retrieval: Retrieval, decisions: Decisions, names: dict[int, str]
) -> pa.Table:
    """The answers with the animal of the decision first: with identity_score=mean_top another one
    may have the best image."""
    leader_of = dict(
        zip(retrieval.queries.image_ids, map(names.get, decisions.top.identity_Q), strict=True)
    )
    rows = answers.to_pandas()
    follows_R = rows["identity"] != rows["query_id"].map(leader_of)
    place_R = rows.groupby("query_id", sort=False).ngroup()
    order_R = np.lexsort((rows["rank"], follows_R, place_R))
    return answers.take(order_R).set_column(
        answers.schema.get_field_index("rank"), "rank", answers["rank"]
    )


def without_truth(table: pa.Table) -> pa.Table:
    """The table with an empty column ``is_match``."""
    place = table.schema.get_field_index("is_match")
    return table.set_column(place, "is_match", pa.nulls(len(table), pa.bool_()))


def _probabilities(
    retrieval: Retrieval, gallery: StoredGallery, answers: pa.Table, names: dict[int, str]
) -> np.ndarray:
    """The probability of each row of the answers; NaN if the gallery has no curve for it."""
    curve, decisions = gallery.answer_curve(), retrieval.decisions
    if curve is None or decisions is None:
        return np.full(len(answers), np.nan)
    chance_R = curve.apply(answers["score"].to_numpy())
    query_R = answers["query_id"].to_numpy(zero_copy_only=False)
    first_R = answers["identity"].to_numpy(zero_copy_only=False)
    start_R = np.flatnonzero(answers["rank"].to_numpy() == 1)
    place = {image_id: q for q, image_id in enumerate(retrieval.queries.image_ids)}
    for start, end in zip(start_R, np.append(start_R[1:], len(chance_R)), strict=True):
        q = place[query_R[start]]
        if names.get(int(decisions.top.identity_Q[q])) == first_R[start]:
            first = float(decisions.probability_Q[q])
            chance_R[start:end] = shared_out(first, chance_R[start:end])
    return chance_R


def _open_set_table(
    retrieval: Retrieval, decisions: Decisions, names: dict[int, str], *, decides: bool
) -> pa.Table:
    top, ids = decisions.top, retrieval.queries.image_ids
    none = pa.nulls(len(ids), pa.bool_())
    decided = np.where(decisions.known_Q, "known", "new")
    return pa.table(
        {
            "query_id": list(ids),
            "identity": pa.nulls(len(ids), pa.string()),
            "leader": [names.get(int(code)) for code in top.identity_Q],
            "score": top.score_Q,
            "margin": top.margin_Q,
            "known_probability": decisions.probability_Q,
            "decision": pa.array(decided if decides else [None] * len(ids), pa.string()),
            "is_known": none,
            "is_right": none,
        }
    )


def _encounter_table(retrieval: Retrieval, names: dict[int, str], *, decides: bool) -> pa.Table:
    """``encounters.parquet``: the answer of each encounter. Its photographs are pooled as in a
    probe, and decided like one photograph with the pooled score and margin."""
    queries, encounters = retrieval.queries, retrieval.table.rows["encounter"]
    decisions = retrieval.decisions
    rows = []
    pooled = pool_encounters(retrieval.ranking, retrieval.gallery.identity_N, queries.encounter_N)
    for _, members, answer in pooled:
        identities = [names[int(code)] for code in answer.identity_A[:2]]
        known = int(decisions.known_Q[members].sum()) if decisions and decides else None
        probability, decision = _encounter_decision(retrieval, members, answer)
        rows.append(
            {
                "encounter": encounters.iloc[queries.position_N[members[0]]],
                "identity": None,
                "photos": len(members),
                "identity_rank": None,
                "leader": identities[0] if identities else None,
                "score": float(answer.score_A[0]) if identities else None,
                "next": identities[1] if len(identities) > 1 else None,
                "known_photos": known,
                "decision": decision if decides else None,
                "known_probability": probability,
            }
        )
    number, text = pa.int64(), pa.string()
    types = {
        "encounter": text,
        "identity": text,
        "photos": number,
        "identity_rank": number,
        "leader": text,
        "score": pa.float64(),
        "next": text,
        "known_photos": number,
        "decision": text,
        "known_probability": pa.float64(),
    }
    return pa.Table.from_pylist(rows, pa.schema(list(types.items())))


def _encounter_decision(
    retrieval: Retrieval, members: np.ndarray, answer: IdentityAnswer
) -> tuple[float | None, str | None]:
    """The probability that an encounter's top identity is right, and known or new; or None,
    None."""
    if retrieval.decisions is None:
        return None, None
    (decider,), score_A = retrieval.decisions.deciders, answer.score_A
    if len(score_A) == 0:
        return 0.0, "new"
    kept_M = np.count_nonzero(retrieval.ranking.candidate_index_QK[members] >= 0, axis=1)
    last_M = retrieval.ranking.candidate_score_QK[members, np.maximum(kept_M - 1, 0)]
    after = score_A[1:].max() if len(score_A) > 1 else float(last_M[kept_M > 0].mean())
    margin = max(float(score_A[0] - after), 0.0)
    pooled = TopIdentities(answer.identity_A[:1], score_A[:1], np.array([margin]))
    probability = float(decider.probability(pooled)[0])
    return probability, "known" if probability > decider.threshold else "new"


def picture_table(
    retrieval: Retrieval | None,
    known: ImageTable,
    gallery: StoredGallery,
    config: ProbeConfig,
    pictures: Path | None,
) -> pa.Table:
    """``photos.parquet``: the picture files of queries and of their candidates; those of the
    gallery below ``pictures``, or else its thumbnails. ``known`` are the photographs that the
    gallery has already."""
    rows = [
        picture_row(known, config, i, side=IN_GALLERY, where=picture_below(known.root, known, i))
        for i in range(len(known))
    ]
    if retrieval is not None:
        rows = [*_pictures(retrieval, gallery, config, pictures), *rows]
    frame = pd.DataFrame(rows).astype(object)
    return pa.Table.from_pandas(frame.where(frame.notna(), None), preserve_index=False)


def _pictures(
    retrieval: Retrieval, gallery: StoredGallery, config: ProbeConfig, pictures: Path | None
) -> list[dict[str, Json]]:
    index_QK = retrieval.ranking.candidate_index_QK[:, : config.benchmark.keep_candidates]
    shown = np.unique(index_QK[index_QK >= 0])
    if retrieval.gated is not None:
        place = {name: i for i, name in enumerate(retrieval.gallery.image_ids)}
        gated = [place[image_id] for image_id in retrieval.gated["gallery_id"].to_pylist()]
        shown = np.union1d(shown, np.array(gated, np.int64))
    shown_G = retrieval.gallery.position_N[shown]
    images, table = gallery.table.rows["identity"].value_counts(), retrieval.table
    count_of = {str(name): int(count) for name, count in images.items()}
    rows = []
    for position in (*retrieval.queries.position_N.tolist(), *shown_G.tolist()):
        if position >= len(gallery):
            where = picture_below(table.root, table, position)
        elif pictures is not None:
            where = picture_below(str(pictures), table, position)
        else:
            where = thumbnail_picture(gallery, position)
        side = "query" if position >= len(gallery) else "gallery"
        row = picture_row(table, config, position, side=side, where=where)
        if side == "gallery":
            row["gallery_images"] = count_of[str(row["identity"])]
        rows.append(row)
    return rows


def picture_row(
    table: ImageTable, config: ProbeConfig, position: int, *, side: str, where: PictureFile
) -> dict[str, Json]:
    """A row of ``photos.parquet``."""
    row = table.rows.iloc[position]
    regions = [config.dataset.mask_col, *config.dataset.bbox_cols]
    more = table.original.iloc[position].drop(regions, errors="ignore")
    known = {name: row[name] for name in ("identity", "encounter", "viewpoint")}
    known |= {"date": _date_text(row["date"]), "visit": encounter_name(row["encounter"])}
    used = {"image_id": row["image_id"], "side": side} | where | known
    taken = {*used, "split", "gallery_images"}
    original = {
        f"{name} (metadata)" if name in taken else str(name): str(value)
        for name, value in more.items()
        if pd.notna(value)
    }
    return original | used


def picture_below(root: str, table: ImageTable, position: int) -> PictureFile:
    """The picture of an image below a folder."""
    row = table.rows.iloc[position]
    return {"root": root, "path": row["path"], "mask": row["mask"], **_boxed(row["bbox"])}


def thumbnail_picture(gallery: StoredGallery, position: int) -> PictureFile:
    """The small picture of a gallery photograph; without one, a path of None."""
    file = gallery.thumbnail(gallery.content_G[position])
    if file is None:
        return {"root": None, "path": None, "mask": None}
    path = file.relative_to(gallery.folder).as_posix()
    mask, bbox = region_parts(gallery.small_masks[position])
    return {"root": str(gallery.folder), "path": path, "mask": mask, **_boxed(bbox)}


def _boxed(bbox: str | None) -> dict[str, str | None]:
    return {"bbox": bbox} if bbox else {}


def _date_text(moment: Any) -> str | None:
    """A date as text, with its time if it has one."""
    if pd.isna(moment):
        return None
    return str(moment.date() if moment == moment.normalize() else moment)
