"""Which plots a report has, and the numbers behind them.

Letters: Q queries.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from exreid.explain.page_plots import curves, groups_plot, histograms, reliability_plot
from exreid.explain.plots import Curve
from exreid.metrics.openset import Answers, open_set_curve
from exreid.metrics.reliability import reliability
from exreid.report.breakdown import (
    COUNTS,
    DEPTH,
    binned,
    cumulative_match,
    date_gaps,
    top_1_by_group,
)
from exreid.report.compare import Comparison
from exreid.report.content import Plot
from exreid.report.data import RunData
from exreid.report.words import method_words, percent

MOST_GROUPS = 12
RESAMPLES = 1000
LEAST_QUERIES = 20
"""Fewer are not plotted by their stated probability."""
THIS = "this run"


def summary_plots(data: RunData, index: pd.DataFrame, comparison: Comparison | None) -> list[Plot]:
    """Cumulative match, scores, groups, known and new; those that the run's files allow."""
    found = []
    if (index["outcome"].isin(["right", "wrong"])).any():
        found.append(_cumulative(data, index, comparison))
    scores = _score_groups(data, index)
    if scores:
        found.append(_scores(data, scores))
    if data.truth_known:
        found.extend(_groups(data, index, comparison))
    curve = _known_and_new(data)
    return [*found, curve] if curve else found


def trust_plots(data: RunData, index: pd.DataFrame) -> list[Plot]:
    """Whether stated probabilities hold: on gallery pairs, and on the answers themselves."""
    found = []
    pairs = data.tables.get("calibration_pairs")
    if pairs is not None:
        if "is_shown" in pairs and pairs["is_shown"].any():
            pairs = pairs[pairs["is_shown"]]
        names = [name for name in pairs.columns if name.startswith("held_out:")]
        known = pairs[names].notna().all(axis=1) if names else pd.Series(dtype=bool)
        if names and known.any():
            found.append(_pair_reliability(pairs[known], names))
    stated = index["probability"].notna() & (index["outcome"] != "open")
    if data.tables.get("open_set") is not None and stated.sum() >= LEAST_QUERIES:
        right = (index["outcome"] == "right")[stated].to_numpy()
        diagram = reliability(
            index["probability"][stated].to_numpy(np.float64), right, bins=8, equal_count=True
        )
        text = (
            "Every dot is about an eighth of the photographs of this run. On the dashed line, "
            "answers are right as often as stated; below it, less often. The statement assumes "
            "as many new as known animals unless the run was told otherwise."
        )
        svg = reliability_plot("answers", {"answers": diagram}, text=text)
        found.append(Plot("answers", "Are answers right as often as stated?", text, svg))
    return found


def _first_rank(data: RunData, index: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Of queries with a known animal: rank of the first match (0: none), identity code."""
    known = index["outcome"] != "open"
    return (
        index["first_rank"][known].to_numpy(),
        pd.factorize(index["truth"][known], sort=True)[0],
    )


def _cumulative(data: RunData, index: pd.DataFrame, comparison: Comparison | None) -> Plot:
    runs = {THIS: _first_rank(data, index)}
    if comparison:
        names = [run.name for run in comparison.runs]
        runs = {
            name: (run.first_rank_Q, run.identity_Q)
            for name, run in zip(names, comparison.runs, strict=True)
        }
    lines = [cumulative_match(name, *ranks) for name, ranks in runs.items()]
    value = lines[0].y
    text = (
        f"Looking at the best match alone finds the right animal in {percent(value[0])} of all "
        f"photographs; looking at the best 5, in {percent(value[4])}; at the best {DEPTH}, in "
        f"{percent(value[-1])}. The band holds the true value in 95 of 100 such samples of animals."
    )
    svg = curves(
        "cmc",
        lines,
        x_label="matches looked at",
        y_label="right animal among them, %",
        x_limits=(1, DEPTH),
        text=text,
    )
    return Plot("cmc", "How far down must one look?", text, svg)


def _score_groups(data: RunData, index: pd.DataFrame) -> dict[str, np.ndarray]:
    """The best score of the same animal, of another one, and of any where the animal is new."""
    ranks = data.ranks
    groups: dict[str, list[float]] = {"same animal": [], "another animal": [], "new animal": []}
    for q, outcome in enumerate(index["outcome"]):
        part = slice(ranks.start_Q1[q], ranks.start_Q1[q + 1])
        score_R, match_R = ranks.score_R[part], ranks.match_R[part]
        if outcome == "new":
            groups["new animal"].extend(score_R[:1])
        elif outcome in ("right", "wrong"):
            groups["same animal"].extend(score_R[match_R == 1][:1])
            groups["another animal"].extend(score_R[match_R == 0][:1])
        else:
            groups.setdefault("best match", []).extend(score_R[:1])
    found = {}
    for name, values in groups.items():
        finite = np.array(values, np.float64)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            found[name] = finite
    return found


def _scores(data: RunData, groups: dict[str, np.ndarray]) -> Plot:
    text = (
        "The best score that each photograph reached with a photograph of the same animal, and "
        "with one of another animal; for new animals, with any. The less these overlap, the surer "
        "the answers."
    )
    title = "Scores of the same, of another, of new animals"
    if set(groups) == {"best match"}:
        title = "Scores of the best matches"
        text = "The score of each photograph's best match."
    method = method_words(str(data.result.get("method")))
    svg = histograms("scores", groups, x_label=f"score by {method}", text=text)
    return Plot("scores", title, text, svg)


def _groups(data: RunData, index: pd.DataFrame, comparison: Comparison | None) -> list[Plot]:
    """Top-1 by viewpoint, site, photographs in the gallery, days between."""
    titles = {
        "viewpoint": "By side of the animal",
        "site": "By site",
        "gallery": "By photographs of the animal in the gallery",
        "days": "By days to the nearest gallery photograph of the animal",
    }
    asked = index["outcome"].isin(["right", "wrong"]).to_numpy()
    runs = {THIS: index["first_rank"].to_numpy()[asked]}
    if comparison:
        runs = {run.name: run.first_rank_Q[asked] for run in comparison.runs}
    identity_Q = pd.factorize(index["truth"][asked], sort=True)[0]
    found = []
    for group, names in _group_names(data, index).items():
        names_Q = [name for name, one in zip(names, asked, strict=True) if one]
        common = pd.Series(names_Q).value_counts()
        if len(common) < 2:
            continue
        kept = set(common.index[:MOST_GROUPS])
        rows = [
            row
            for run, rank_Q in runs.items()
            for row in top_1_by_group(
                group, names_Q, run, rank_Q, identity_Q, shown=kept, resamples=RESAMPLES
            )
        ]
        text = (
            "Share answered rightly first, with its 95% interval, of photographs whose animal is "
            "in the gallery."
        )
        if len(common) > MOST_GROUPS:
            text += f" The {MOST_GROUPS} largest of {len(common)} groups."
        found.append(Plot(group, titles[group], text, groups_plot(group, rows, text=text)))
    return found


def _group_names(data: RunData, index: pd.DataFrame) -> dict[str, list[str]]:
    rows = data.photos.rows.iloc[index["photo"]]
    names = {
        "gallery": [binned(n, COUNTS, "") for n in data.queries["positives"]],
        "days": _days(data, index),
    }
    for column in ("viewpoint", "site"):
        if rows[column].notna().any():
            names[column] = [cell or "(empty)" for cell in rows[column]]
    return names


def _days(data: RunData, index: pd.DataFrame) -> list[str]:
    exclude = data.config.benchmark.exclude if data.config else "image"
    queries = data.photos.rows.iloc[index["photo"]].assign(identity=index["truth"].to_numpy())
    return date_gaps(queries, data.photos.gallery, exclude)


def _known_and_new(data: RunData) -> Plot | None:
    table = data.tables.get("open_set")
    if table is None or table["is_known"].isna().any():
        return None
    known = table["is_known"].to_numpy(bool)
    if known.all() or not known.any():
        return None
    answers = Answers(
        table["known_probability"].to_numpy(np.float64),
        known,
        table["is_right"].to_numpy(bool),
        pd.factorize(table["identity"])[0],
    )
    x, y = open_set_curve(answers)
    text = (
        "A lower bar accepts more known animals, and lets more new ones pass for known. Every "
        "point of the line is one bar; the run's own bar was chosen on the gallery."
    )
    svg = curves(
        "known-new",
        [Curve(THIS, 100 * x, y)],
        x_label="new animals taken for known ones, %",
        y_label="known animals accepted and named rightly, %",
        x_limits=(0, 100),
        text=text,
    )
    return Plot("known-new", "Known against new", text, svg)


def _pair_reliability(pairs: pd.DataFrame, names: list[str]) -> Plot:
    diagrams = {}
    for name in names:
        label = name.removeprefix("held_out:")
        words = "all together" if label == "fused" else method_words(label)
        diagrams[label if words in diagrams else words] = reliability(
            pairs[name].to_numpy(np.float64),
            pairs["is_match"].to_numpy(bool),
            weight_P=pairs["weight"].to_numpy(np.float64),
            equal_count=True,
        )
    text = (
        f"{len(pairs):,} pairs of gallery photographs, such as are shown as candidates, whose "
        "probabilities were fitted on other animals. On the dashed line, pairs show one animal "
        "as often as stated."
    )
    svg = reliability_plot("pairs", diagrams, text=text)
    return Plot("pairs", "Do the probabilities of pairs hold?", text, svg)
