"""A finished run of any size without a model: made photographs, scores and matches.

The files are those of a probe, written by the probe's own code where that needs no model.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from exreid.config.io import from_values, to_yaml
from exreid.config.probe import ProbeConfig
from exreid.data.masks import encode_mask
from exreid.metrics.identities import identity_answers, top_identities
from exreid.metrics.ranking import concatenate_rankings, index_gallery, rank_block, side_slice
from exreid.metrics.retrieval import query_values, retrieval_counts, retrieval_metrics
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.records import Ranking, RetrievalSide
from exreid.storage.run_folder import versions, write_table, write_text
from exreid.storage.run_tables import query_table, ranking_table

METHODS = ("cosine:efficientnet-lite0", "aliked-n16")
BLOCK = 256
VIEWS = ("left", "right")


@dataclass(frozen=True)
class MadeRun:
    """How large, and what its texts are."""

    queries: int
    gallery: int
    animals: int
    new_share: float = 0.15
    photo_wh_px: tuple[int, int] = (640, 480)
    kept_matches: int = 5
    shortlist: int = 20
    names: tuple[str, ...] = ()
    """Of the first animals, sites and files; the others are numbered."""
    open_set: bool = True
    seed: int = 0


def make_run(folder: Path, made: MadeRun) -> tuple[Path, Path]:
    """Write data set and run below ``folder``; returns the run's folder and the data set's."""
    random = np.random.default_rng(made.seed)
    data = folder / "data"
    rows = _rows(made, random)
    _write_photographs(data, rows, made, random)
    run = folder / "benchmark_runs" / "made"
    run.mkdir(parents=True)
    config = _config(data, made)
    write_text(run / "config.snapshot.yaml", to_yaml(config))
    queries, gallery = _sides(rows, made)
    ranking = _ranking(queries, gallery, made, random)
    names = [row["unique_name"] for row in rows]
    write_table(run / "rankings.parquet", ranking_table(ranking, queries, gallery))
    identities = [names[i] for i in queries.position_N]
    write_table(run / "queries.parquet", query_table(ranking, queries, identities))
    by_code = {
        int(c): names[i] for c, i in zip(gallery.identity_N, gallery.position_N, strict=True)
    }
    write_table(run / "answers.parquet", _answers(ranking, queries, gallery, by_code))
    write_table(run / "fusion.parquet", _fusion(ranking, queries, gallery, made))
    if made.open_set:
        write_table(
            run / "open_set.parquet", _open_set(ranking, queries, gallery, (by_code, identities))
        )
        content = {"bar": 0.5, "rule": "false_match_rate", "stated_false_match_rate": 0.05}
        write_text(run / "open_set.json", json.dumps(content))
    if made.kept_matches:
        write_table(run / "matches.parquet", _matches(ranking, queries, gallery, made, random))
    write_table(run / "calibration_pairs.parquet", _calibration(random))
    write_text(run / "rejected.csv", "image_id,path,row,stage,reason\n")
    _write_result(run, ranking, queries, gallery)
    return run, data


def _rows(made: MadeRun, random: np.random.Generator) -> list[dict[str, Any]]:
    """The metadata: queries first, then the gallery. New animals are only among the queries."""

    def named(kind: str, number: int) -> str:
        return made.names[number] if number < len(made.names) else f"{kind} {number:05d}"

    rows = []
    new = max(1, made.animals // 5)
    for place in range(made.queries + made.gallery):
        is_query = place < made.queries
        number = place % made.animals if not is_query else int(random.integers(made.animals))
        if is_query and random.random() < made.new_share:
            number = made.animals + int(random.integers(new))
        name = (
            f"{place:06d}-{made.names[place % len(made.names)]}" if made.names else f"{place:06d}"
        )
        file = name.replace("/", "_").replace("\\", "_")
        day = np.datetime64("2020-01-01") + int(random.integers(1500))
        rows.append(
            {
                "path": f"photos/{place % 100:02d}/{file}.jpg",
                "unique_name": named("animal", number),
                "split": "test" if is_query else "train",
                "date": str(day),
                "visit": named("visit", int(random.integers(made.queries + made.gallery))),
                "trap_id": named("trap", int(random.integers(40))),
                "pose": VIEWS[int(random.integers(2))],
                "remark <b>": named("remark", int(random.integers(9))),
            }
        )
    return rows


def _write_photographs(
    data: Path, rows: list[dict[str, Any]], made: MadeRun, random: np.random.Generator
) -> None:
    width, height = made.photo_wh_px
    bases, masks = [], []
    yy, xx = np.mgrid[:height, :width]
    for _ in range(min(24, len(rows))):
        small = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=88)
        bases.append(stream.getvalue())
        x, y = random.uniform(0.4, 0.6, 2) * (width, height)
        inside = ((xx - x) / (0.35 * width)) ** 2 + ((yy - y) / (0.3 * height)) ** 2 < 1
        masks.append(encode_mask(inside))
    for place, row in enumerate(rows):
        base = bases[place % len(bases)]
        comment = f"{place:08d}".encode()
        # A comment makes each file's content its own.
        marker = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        file = data / row["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base[:2] + marker + base[2:])
        row["mask"] = masks[place % len(bases)]
    with (data / "metadata.csv").open("w", encoding="utf-8", newline="") as stream_:
        writer = csv.DictWriter(stream_, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _config(data: Path, made: MadeRun) -> ProbeConfig:
    return from_values(
        ProbeConfig,
        {
            "dataset": {
                "root": str(data),
                "split_col": "split",
                "encounter_cols": ["visit"],
                "viewpoint_col": "pose",
            },
            "benchmark": {
                "method": "wildfusion",
                "candidate_k": made.shortlist,
                "keep_matches": made.kept_matches,
                "open_set": {"enabled": made.open_set},
            },
        },
        source="made",
    )


def _sides(rows: list[dict[str, Any]], made: MadeRun) -> tuple[RetrievalSide, RetrievalSide]:
    identity = pd.factorize(np.array([row["unique_name"] for row in rows]), sort=True)[0]
    visit = pd.factorize(np.array([row["visit"] for row in rows]), sort=True)[0]

    def side(start: int, stop: int) -> RetrievalSide:
        ids = tuple(row["path"] for row in rows[start:stop])
        place = np.arange(start, stop)
        return RetrievalSide(
            ids, place, identity[place].astype(np.int32), visit[place].astype(np.int32)
        )

    return side(0, made.queries), side(made.queries, len(rows))


def _ranking(
    queries: RetrievalSide, gallery: RetrievalSide, made: MadeRun, random: np.random.Generator
) -> Ranking:
    index = index_gallery(gallery)
    parts = []
    for start in range(0, len(queries), BLOCK):
        block = side_slice(queries, start, min(start + BLOCK, len(queries)))
        same = block.identity_N[:, None] == gallery.identity_N[None, :]
        scores = random.beta(2, 6, same.shape).astype(np.float32)
        scores += same * random.uniform(0, 0.55, same.shape).astype(np.float32)
        parts.append(rank_block(np.clip(scores, 0, 1), block, index, keep=100))
    return concatenate_rankings(parts)


def _answers(
    ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide, names: dict[int, str]
) -> pa.Table:
    rows = []
    for q, answer in enumerate(identity_answers(ranking, gallery.identity_N)):
        for rank, code in enumerate(answer.identity_A[:10].tolist()):
            rows.append(
                {
                    "query_id": queries.image_ids[q],
                    "rank": rank + 1,
                    "identity": names[code],
                    "score": float(answer.score_A[rank]),
                    "best_gallery_id": gallery.image_ids[answer.best_A[rank]],
                    "images": int(answer.images_A[rank]),
                    "is_match": code == int(queries.identity_N[q]),
                }
            )
    return pa.Table.from_pylist(rows)


def _fusion(
    ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide, made: MadeRun
) -> pa.Table:
    index_QK = ranking.candidate_index_QK[:, : made.shortlist]
    score = ranking.candidate_score_QK[:, : made.shortlist].ravel().astype(np.float64)
    query, rank = np.nonzero(index_QK >= 0)
    columns: dict[str, Any] = {
        "query_id": pa.array(np.array(queries.image_ids, object)[query], pa.string()),
        "gallery_id": pa.array(np.array(gallery.image_ids, object)[index_QK.ravel()], pa.string()),
        "rank": rank + 1,
        "score": score,
        "probability": np.clip(score, 0, 1),
    }
    for share, name in zip((0.4, 0.6), METHODS, strict=True):
        columns[f"raw:{name}"] = score * (1 if "cosine" in name else 180)
        columns[f"probability:{name}"] = np.clip(score, 0, 1)
        columns[f"contribution:{name}"] = share * score
    return pa.table(columns)


def _open_set(
    ranking: Ranking,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    words: tuple[dict[int, str], list[str]],
) -> pa.Table:
    found = top_identities(ranking, gallery.identity_N)
    known_Q = np.diff(ranking.positive_offset_Q1) > 0
    probability_Q = 1 / (1 + np.exp(-8 * (found.score_Q + found.margin_Q - 0.75)))
    return pa.table(
        {
            "query_id": list(queries.image_ids),
            "identity": words[1],
            "leader": [words[0].get(int(code)) for code in found.identity_Q],
            "score": found.score_Q,
            "margin": found.margin_Q,
            "known_probability": probability_Q,
            "decision": np.where(probability_Q > 0.5, "known", "new"),
            "is_known": known_Q,
            "is_right": known_Q & (found.identity_Q == queries.identity_N),
        }
    )


def _matches(
    ranking: Ranking,
    queries: RetrievalSide,
    gallery: RetrievalSide,
    made: MadeRun,
    random: np.random.Generator,
) -> pa.Table:
    index = ranking.candidate_index_QK[:, : made.kept_matches]
    count_P = random.integers(5, 60, index.size)
    start_P1 = np.concatenate([[0], np.cumsum(count_P)]).astype(np.int32)
    total = int(start_P1[-1])
    width = 512
    height = round(width * made.photo_wh_px[1] / made.photo_wh_px[0])

    def points() -> pa.Array:
        xy = random.uniform(0.2, 0.8, (total, 2)) * (width, height)
        return pa.ListArray.from_arrays(2 * start_P1, pa.array(xy.ravel().astype(np.float32)))

    confidence = random.uniform(0.2, 1, total).astype(np.float32)
    inlier = np.zeros(total, bool)
    size = pa.array([[width, height]] * index.size, pa.list_(pa.int32()))
    query = np.repeat(np.array(queries.image_ids, object), index.shape[1])
    return pa.table(
        {
            "query_id": pa.array(query, pa.string()),
            "gallery_id": pa.array(np.array(gallery.image_ids, object)[index.ravel()], pa.string()),
            "query_wh_px": size,
            "gallery_wh_px": size,
            "query_xy": points(),
            "gallery_xy": points(),
            "confidence": pa.ListArray.from_arrays(start_P1, pa.array(confidence)),
            "inlier": pa.ListArray.from_arrays(start_P1, pa.array(inlier)),
        }
    )


def _calibration(random: np.random.Generator, pairs: int = 2000) -> pa.Table:
    stated = random.uniform(0, 1, pairs)
    columns: dict[str, Any] = {
        "is_match": random.uniform(0, 1, pairs) < stated**1.2,
        "weight": np.ones(pairs),
    }
    for name in (*METHODS, "fused"):
        columns[f"held_out:{name}"] = np.clip(stated + random.normal(0, 0.05, pairs), 0, 1)
    return pa.table(columns)


def _write_result(
    run: Path, ranking: Ranking, queries: RetrievalSide, gallery: RetrievalSide
) -> None:
    metrics = retrieval_metrics(ranking, queries.identity_N, top_k=(1, 5, 10), mean_ap=True)
    values = query_values(ranking, top_k=(1, 5, 10), mean_ap=True)
    content = {
        "run_id": "made",
        "status": "completed",
        "method": "wildfusion",
        "metrics": metrics,
        "intervals": bootstrap_intervals(values, queries.identity_N, resamples=100),
        "counts": retrieval_counts(ranking, queries, gallery),
        "timings_s": {"matching": 1.5},
        "config_fingerprint": "0" * 16,
        "versions": versions(),
        "written": "2026-01-02T03:04:05+00:00",
    }
    write_text(run / "result.json", json.dumps(content, default=asdict) + "\n")
