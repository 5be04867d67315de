"""The plots of a report's first page, and the numbers behind them.

Letters: Q queries.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from exreid.explain.comparison_plots import Curve
from exreid.explain.page_plots import curves, groups_plot, histograms
from exreid.explain.words import method_words, percent
from exreid.metrics.openset import Answers, open_set_curve
from exreid.report.breakdown import (
    COUNT_EDGES,
    DEPTH,
    binned,
    cumulative_match,
    date_gaps,
    top_1_by_group,
)
from exreid.report.pages import Plot
from exreid.report.read import RunData
from exreid.report.side_by_side import Comparison

MOST_GROUPS = 12
GROUP_RESAMPLES = 1000
THIS = "this run"


def summary_plots(
    data: RunData, outcomes: pd.DataFrame, comparison: Comparison | None
) -> list[Plot]:
    """Cumulative match, scores, groups, known and new; those that the run's files allow."""
    plots = []
    if (outcomes["outcome"].isin(["right", "wrong"])).any():
        plots.append(_cumulative(outcomes, comparison))
    scores = _score_groups(data, outcomes)
    if scores:
        plots.append(_scores(data, scores))
    if data.truth_known:
        plots.extend(_groups(data, outcomes, comparison))
    known_and_new = _known_and_new(data)
    return [*plots, known_and_new] if known_and_new else plots


def _cumulative(outcomes: pd.DataFrame, comparison: Comparison | None) -> Plot:
    if comparison:
        lines = [
            cumulative_match(run.name, run.first_rank_Q, run.identity_Q) for run in comparison.runs
        ]
    else:
        labelled = outcomes[outcomes["outcome"] != "open"]
        identity_Q = pd.factorize(labelled["truth"], sort=True)[0]
        lines = [cumulative_match(THIS, labelled["first_rank"].to_numpy(), identity_Q)]
    value = lines[0].y
    text = (
        f"Looking at the best match alone finds the right animal in {percent(value[0])} of all "
        f"photographs; looking at the best 5, in {percent(value[4])}; at the best {DEPTH}, in "
        f"{percent(value[-1])}. The band is the 95% interval over samples of animals."
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


def _score_groups(data: RunData, outcomes: pd.DataFrame) -> dict[str, np.ndarray]:
    """The best score of the same animal, of another one, and of any where the animal is new."""
    ranks = data.ranks
    groups: dict[str, list[float]] = {"same animal": [], "another animal": [], "new animal": []}
    for q, outcome in enumerate(outcomes["outcome"]):
        part = ranks.of(q)
        score_R, match_R = ranks.score_R[part], ranks.match_R[part]
        if outcome == "new":
            groups["new animal"].extend(score_R[:1])
        elif outcome in ("right", "wrong"):
            groups["same animal"].extend(score_R[match_R == 1][:1])
            groups["another animal"].extend(score_R[match_R == 0][:1])
        else:
            groups.setdefault("best match", []).extend(score_R[:1])
    arrays = {name: np.array(values, np.float64) for name, values in groups.items()}
    finite = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    return {name: values for name, values in finite.items() if len(values)}


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
    method = method_words(data.result.method)
    svg = histograms("scores", groups, x_label=f"score by {method}", text=text)
    return Plot("scores", title, text, svg)


def _groups(data: RunData, outcomes: pd.DataFrame, comparison: Comparison | None) -> list[Plot]:
    """Top-1 by viewpoint, site, photographs in the gallery, days between."""
    titles = {
        "viewpoint": "By side of the animal",
        "site": "By site",
        "gallery": "By photographs of the animal in the gallery",
        "days": "By days to the nearest gallery photograph of the animal",
    }
    asked = outcomes["outcome"].isin(["right", "wrong"]).to_numpy()
    runs = {THIS: outcomes["first_rank"].to_numpy()[asked]}
    if comparison:
        runs = {run.name: run.first_rank_Q[asked] for run in comparison.runs}
    identity_Q = pd.factorize(outcomes["truth"][asked], sort=True)[0]
    plots = []
    for group, names in _group_names(data, outcomes).items():
        names_Q = [name for name, is_asked in zip(names, asked, strict=True) if is_asked]
        common = pd.Series(names_Q).value_counts()
        if len(common) < 2:
            continue
        kept = set(common.index[:MOST_GROUPS])
        rows = [
            row
            for run, rank_Q in runs.items()
            for row in top_1_by_group(
                group, names_Q, run, rank_Q, identity_Q, shown=kept, resamples=GROUP_RESAMPLES
            )
        ]
        text = (
            "Share answered rightly first, with its 95% interval, of photographs whose animal is "
            "in the gallery."
        )
        if len(common) > MOST_GROUPS:
            text += f" The {MOST_GROUPS} largest of {len(common)} groups."
        plots.append(Plot(group, titles[group], text, groups_plot(group, rows, text=text)))
    return plots


def _group_names(data: RunData, outcomes: pd.DataFrame) -> dict[str, list[str]]:
    rows = data.images.rows.iloc[outcomes["image"]]
    names = {
        "gallery": [binned(n, COUNT_EDGES, "") for n in data.queries["positives"]],
        "days": _days(data, outcomes),
    }
    for column in ("viewpoint", "site"):
        if rows[column].notna().any():
            names[column] = [cell or "(empty)" for cell in rows[column]]
    return names


def _days(data: RunData, outcomes: pd.DataFrame) -> list[str]:
    exclude = data.config.benchmark.exclude if data.config else "image"
    queries = data.images.rows.iloc[outcomes["image"]].assign(identity=outcomes["truth"].to_numpy())
    return date_gaps(queries, data.images.gallery, exclude)


def _known_and_new(data: RunData) -> Plot | None:
    table = data.open_set
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
        "A lower threshold accepts more known animals, and lets more new ones pass for known. "
        "Every point of the line is one threshold; the run's own was chosen on the gallery."
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
