"""What plots show, read back from their pixels."""

import numpy as np
import pytest
from PIL import Image

from exreid.explain.comparison_plots import (
    BudgetPoint,
    Curve,
    GroupTop1,
    draw_budget,
    draw_cumulative,
    draw_groups,
)
from exreid.explain.plots import COLOURS, draw_learning_curve, draw_open_set, draw_reliability
from exreid.metrics.reliability import reliability

BLUE, ORANGE, GREEN = COLOURS[:3]


def pixels_of(file, colour, *, alpha=1.0, near=12):
    """bool (H, W): where a picture has a colour, laid over white."""
    rgb = alpha * np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) + 255 * (1 - alpha)
    picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return (np.abs(picture - rgb) <= near).all(axis=2)


def _level(pixels_HW):
    """The row in which a level line stands: its legend's is much shorter."""
    return int(pixels_HW.sum(axis=1).argmax())


def test_cumulative_lines_stand_at_their_shares(tmp_path):
    k, file = np.arange(1, 21), tmp_path / "cmc.png"
    shares = (1.0, 0.5, 0.25)
    lines = [Curve(f"$run_{share}", k, np.full(20, share)) for share in shares]
    draw_cumulative(file, [*lines[:2], Curve("band", k, lines[2].y, lines[2].y - 0.2, lines[1].y)])
    rows = [_level(pixels_of(file, colour)) for colour in COLOURS[:3]]
    assert (rows[2] - rows[1]) / (rows[1] - rows[0]) == pytest.approx(0.5, abs=0.03)
    band = pixels_of(file, COLOURS[2], alpha=0.15, near=4)
    rows_of_band = np.flatnonzero(band.sum(axis=1) > 300)
    assert rows_of_band.max() - rows_of_band.min() == pytest.approx(
        0.45 * (rows[1] - rows[0]) / 0.5, rel=0.05
    )


def test_bars_of_groups_are_as_long_as_their_shares(tmp_path):
    def row(name, run, top_1, ends=(None, None)):
        return GroupTop1("a $group_ of", name, run, top_1, *ends, queries=5, identities=2)

    rows = [row(name, run, share) for name in "ab" for run, share in (("r", 0.2), ("$s_", 0.8))]
    draw_groups(tmp_path / "groups.png", rows)
    first, second = (
        pixels_of(tmp_path / "groups.png", colour, alpha=0.8) for colour in COLOURS[:2]
    )
    # The legend has a small patch of each.
    assert np.median(second.sum(axis=1)[second.any(axis=1)]) == pytest.approx(
        4 * np.median(first.sum(axis=1)[first.any(axis=1)]), rel=0.05
    )
    draw_groups(tmp_path / "ends.png", [row("a", "r", 0.5, (0.1, 0.9))])
    assert pixels_of(tmp_path / "ends.png", "#333333").sum(axis=1).max() > 300


def test_the_open_set_curve_is_a_step_at_each_rate(tmp_path):
    file = tmp_path / "open_set.png"
    draw_open_set(file, np.array([0.0, 0.25, 0.5, 1.0]), np.array([0.2, 0.4, 0.8, 0.8]))
    line = pixels_of(file, COLOURS[0])
    left, right = np.flatnonzero(line.any(axis=0))[[0, -1]]
    heights = [
        np.flatnonzero(line[:, round(left + share * (right - left))]).mean()
        for share in (0.12, 0.37, 0.75)
    ]
    assert (heights[1] - heights[2]) / (heights[0] - heights[1]) == pytest.approx(2, abs=0.05)


def test_reliability_on_the_diagonal_and_off_it(tmp_path):
    prob_P = np.linspace(0.01, 0.99, 4000)
    random = np.random.default_rng(0).uniform(size=4000)
    true = reliability(prob_P, random < prob_P, equal_count=True)
    over = reliability(prob_P, random < prob_P / 4, equal_count=True)
    file = tmp_path / "reliability.png"
    draw_reliability(file, reliability(prob_P, random < prob_P / 4), {"true": true, "over": over})
    middle = Image.open(file).width // 2
    first, second = (pixels_of(file, colour)[:, middle + 200 :] for colour in (BLUE, ORANGE))
    rows = [np.nonzero(pixels)[0].mean() for pixels in (first, second)]
    assert rows[1] > rows[0] + 50, "what promises too much lies below"
    bars = pixels_of(file, BLUE, alpha=0.75)[:, :middle]
    last = np.flatnonzero(bars.sum(axis=0) > 20)[-1] - 20  # in the bar of 90 to 100%
    marks = np.flatnonzero(pixels_of(file, ORANGE)[:, last])
    floor = np.flatnonzero(bars[:, last]).max()
    share = (floor - np.flatnonzero(bars[:, last]).min()) / (floor - marks.mean())
    assert share == pytest.approx(1 / 4, abs=0.04), "a bar is a quarter of what was stated"


def _points(method, *accuracies, seconds=(None, None), pairs=(100, 10)):
    return [
        BudgetPoint(
            method,
            k,
            {
                "top_1": (top_1, top_1 - 0.1, top_1 + 0.1),
                "balanced_top_1": (top_1 / 2, None, None),
            },
            0.95 if k else None,
            spent,
        )
        for top_1, k, spent in zip(accuracies, pairs, seconds, strict=True)
    ]


def test_a_budget_has_a_line_for_each_method_and_its_ceiling(tmp_path):
    file = tmp_path / "budget.png"
    points = [*_points("local_lightglue", 0.4, 0.4), *_points("wildfusion", 0.8, 0.8)]
    points.append(
        BudgetPoint("cosine", 0, {"top_1": (0.2, 0.1, 0.3), "balanced_top_1": (0.1,) * 3})
    )
    draw_budget(file, points)
    middle = Image.open(file).width // 2
    left, right = (
        [_level(pixels_of(file, colour)[:, part]) for colour in (*COLOURS[:3], "#808080")]
        for part in (slice(middle), slice(middle, None))
    )
    local, fused, cosine, ceiling = left
    assert (local - fused) / (fused - ceiling) == pytest.approx(0.4 / 0.15, rel=0.05)
    assert (cosine - local) / (local - fused) == pytest.approx(0.2 / 0.4, rel=0.05)
    assert right[1] > fused, "half of it when each animal counts alike"
    assert (right[0] - right[1]) / (local - fused) == pytest.approx(0.5, rel=0.05)


def test_a_budget_in_seconds_is_drawn_where_it_was_measured(tmp_path):
    file = tmp_path / "budget.png"
    untimed = _points("wildfusion", 0.8, 0.8)
    draw_budget(file, [*_points("local_lightglue", 0.4, 0.4), *untimed])
    low = Image.open(file).height
    draw_budget(file, [*_points("local_lightglue", 0.4, 0.4, seconds=(2.0, 0.2)), *untimed])
    assert Image.open(file).height > 1.8 * low
    timed, other = (pixels_of(file, colour)[-low + 100 :] for colour in COLOURS[:2])
    assert timed.sum() > 500
    assert other.sum() == 0


def test_a_learning_curve_has_the_loss_left_and_validation_right(tmp_path):
    file = tmp_path / "curve.png"
    rows = [
        {"epoch": epoch, "loss": 4.0 - epoch, "learning_rate": 0.1, "val_top_1": 0.25}
        | {"val_top_5": 0.5, "val_mAP": 1.0 if epoch else 0.99}
        for epoch in range(4)
    ]
    draw_learning_curve(file, rows, best_epoch=2, title="a $title_")
    assert Image.open(file).size == (1200, 480)
    loss = pixels_of(file, BLUE)[:, :600]
    column = np.flatnonzero(loss.any(axis=0))
    first, last = (np.flatnonzero(loss[:, at]).max() for at in (column[20], column[-60]))
    assert last > first + 100, "it falls"
    levels = [_level(pixels_of(file, colour)[:, 600:]) for colour in (BLUE, ORANGE, GREEN)]
    assert (levels[0] - levels[1]) / (levels[1] - levels[2]) == pytest.approx(0.5, abs=0.05)
