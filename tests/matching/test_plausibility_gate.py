"""The gate against naive twins: which pairs are implausible, and what becomes of their ranks."""

import math
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from exreid.data.traits import Traits, traits_of
from exreid.errors import MetadataError
from exreid.matching.plausibility_gate import (
    FLANK,
    SEX,
    SPEED,
    Gate,
    days_between,
    distances_km,
    gate_figures,
    gated_last,
)
from exreid.matching.shortlist import rerank_shortlist, shortlist_pairs
from exreid.metrics.ranking import rank_scores
from exreid.records import ImageTable, RetrievalSide

FLANKS = ["left", "Right", "L", None, "front", "r"]
SEXES = ["Female", "m", "F", "unknown", None, "male"]
DATES = [
    "2024-05-01 06:00",
    "2024-05-01 18:00",
    "2024-05-03",
    None,
    "2024-05-03 12:00",
    "2024-05-04",
]
PLACES = [
    ("50.0", "14.0"),
    ("50.0", "14.5"),
    ("50,1", "14.0"),
    ("51", "15"),
    (None, None),
    ("50", "14"),
]


def _table(**columns):
    count = len(next(iter(columns.values())))
    known = {name: columns.pop(name, [None] * count) for name in ("viewpoint", "date")}
    rows = pd.DataFrame({"image_id": [f"i{n}" for n in range(count)], "row": range(2, count + 2)})
    for name in ("path", "identity", "split", "mask", "encounter"):
        rows[name] = None
    rows["viewpoint"] = pd.Series(known["viewpoint"], dtype=object)
    rows["date"] = pd.to_datetime(pd.Series(known["date"]), format="mixed").astype("M8[s]")
    return ImageTable(rows, pd.DataFrame(columns, dtype=object), "", "table.csv")


@pytest.fixture
def traits():
    latitude, longitude = zip(*PLACES, strict=True)
    return traits_of(
        _table(viewpoint=FLANKS, date=DATES, Sex=SEXES, latitude=latitude, longitude=longitude)
    )


def _side(identities, encounters=None):
    count = len(identities)
    encounter = np.full(count, -1) if encounters is None else np.array(encounters)
    ids = tuple(f"i{n}" for n in range(count))
    return RetrievalSide(ids, np.arange(count), np.array(identities), encounter)


def _far(i, j, most):
    """By the spherical law of cosines, and datetimes."""
    if None in (DATES[i], DATES[j], PLACES[i][0], PLACES[j][0]):
        return False
    (a, b), (c, d) = ([math.radians(float(x.replace(",", "."))) for x in PLACES[n]] for n in (i, j))
    cosine = math.sin(a) * math.sin(c) + math.cos(a) * math.cos(c) * math.cos(b - d)
    moments = [datetime.fromisoformat(DATES[n]) for n in (i, j)]
    span = abs(moments[0] - moments[1])
    if any(" " not in DATES[n] for n in (i, j)):
        span += timedelta(days=1)
    return 6371.0088 * math.acos(min(cosine, 1.0)) > most * (span / timedelta(days=1))


def test_the_marks_are_those_of_each_pair_alone(traits):
    gate = Gate(traits, flank=True, sex=True, max_km_per_day=20)
    marks = gate.marks(np.arange(6), np.arange(6))
    sides = ["l", "r", "l", None, None, "r"]
    sexes = ["f", "m", "f", None, None, "m"]
    for i in range(6):
        for j in range(6):
            naive = FLANK * (None not in (sides[i], sides[j]) and sides[i] != sides[j])
            naive += SEX * (None not in (sexes[i], sexes[j]) and sexes[i] != sexes[j])
            naive += SPEED * _far(i, j, 20)
            assert marks[i, j] == naive, (i, j)
    assert {0, FLANK + SEX, FLANK + SEX + SPEED} <= set(marks.ravel().tolist())


def test_a_check_that_is_off_marks_nothing(traits):
    everything = np.arange(6)
    assert (
        not Gate(traits, flank=False, sex=False, max_km_per_day=None)
        .marks(everything, everything)
        .any()
    )
    assert set(Gate(traits, True, False, None).marks(everything, everything).ravel()) == {0, FLANK}


def test_the_reason_says_what_and_how_far(traits):
    gate = Gate(traits, flank=True, sex=True, max_km_per_day=20)
    assert gate.reason(0, 1) == "the other flank, the other sex, 36 km away within 0.5 days"
    assert gate.reason(0, 3) == ""


def test_a_degree_of_latitude_is_111_km(traits):
    km = distances_km(traits, np.array([0]), np.array([2]))[0, 0]
    assert km == pytest.approx(11.12, abs=0.01)


def test_cells_are_as_far_as_their_nearest_points():
    """Cells of 10 km beside each other touch; three further east there are 20 km between."""
    cells = ["10kmE459N295", "10kmE460N295", "10kmE462N295", "10kmE460N297", None]
    traits = traits_of(_table(cell_code=cells))
    km = distances_km(traits, np.array([0]), np.arange(5))[0]
    assert km[:3].tolist() == [0, 0, 20]
    assert km[3] == pytest.approx(10)
    assert np.isnan(km[4])


def test_a_day_without_a_time_may_be_a_day_longer(traits):
    days = days_between(traits, np.array([0]), np.array([1, 2, 3]))[0]
    assert days[0] == 0.5
    assert days[1] == 1.75 + 1
    assert np.isnan(days[2])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"latitude": ["here"], "longitude": ["1"]}, "i0 .line 2.: latitude is 'here'"),
        ({"latitude": ["91"], "longitude": ["1"]}, "from -90 to 90"),
        ({"cell_code": ["somewhere"]}, "cell_code is 'somewhere', not a cell such as"),
    ],
)
def test_a_place_that_cannot_be_read_is_an_error(columns, words):
    with pytest.raises(MetadataError, match=words):
        traits_of(_table(**columns))


def _naive(scores, gated, side, keep):
    """Per query: the candidates, and the rank and index of each positive."""
    found = []
    for q in range(len(side)):
        others = [g for g in range(len(side)) if g != q]
        order = sorted(others, key=lambda g: (gated[q, g], -scores[q, g], g))
        candidates = [g for g in order if not gated[q, g]][:keep]
        own = [g for g in order if side.identity_N[g] == side.identity_N[q]]
        ranks = [(order.index(g) + 1, g) for g in own]
        first = ranks[0][0] if ranks else 0
        identities = {int(side.identity_N[g]) for g in order[: first - 1]} if first else set()
        found.append((candidates, ranks, 1 + len(identities) if first else 0))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_gated_candidates_rank_below_all_others(seed):
    rng = np.random.default_rng(seed)
    side = _side(rng.integers(0, 4, 14))
    scores = rng.integers(0, 6, (14, 14)).astype(np.float64)
    gated = rng.random((14, 14)) < (0.3, 0.6, 0.95, 1.0, 0.0)[seed]
    whole = rank_scores(scores, side, side, keep=14)
    ranking = gated_last(whole, gated, side.identity_N, keep=4)
    for q, (candidates, ranks, identity_rank) in enumerate(_naive(scores, gated, side, 4)):
        row = ranking.candidate_index_QK[q]
        assert row[row >= 0].tolist() == candidates
        assert (
            ranking.candidate_score_QK[q, : len(candidates)].tolist()
            == scores[q, candidates].tolist()
        )
        own = slice(*ranking.positive_offset_Q1[q : q + 2])
        assert ranking.positive_rank_P[own].tolist() == [rank for rank, _ in ranks]
        assert ranking.positive_index_P[own].tolist() == [g for _, g in ranks]
        assert ranking.positive_score_P[own].tolist() == [scores[q, g] for _, g in ranks]
        assert ranking.identity_rank_Q[q] == identity_rank
    if not gated.any():
        assert ranking.positive_rank_P.tolist() == whole.positive_rank_P.tolist()


@pytest.mark.parametrize("seed", range(4))
def test_a_shortlist_is_ranked_again_without_its_gated_candidates(seed):
    """Also where fewer plausible candidates are left than the shortlist is long."""
    rng = np.random.default_rng(seed)
    side = _side(rng.integers(0, 3, 12))
    scores, better = rng.random((2, 12, 12))
    gated = rng.random((12, 12)) < 0.7
    ranking = gated_last(rank_scores(scores, side, side, keep=12), gated, side.identity_N, keep=5)
    query, gallery = shortlist_pairs(ranking, 5)
    again = rerank_shortlist(ranking, side, 5, better[query, gallery])
    for q, (candidates, _, _) in enumerate(_naive(scores, gated, side, 5)):
        order = sorted(candidates, key=lambda g: -better[q, g])
        rest = sorted(
            (g for g in range(12) if g not in (*candidates, q)),
            key=lambda g: (gated[q, g], -scores[q, g]),
        )
        rank_of = {g: rank for rank, g in enumerate([*order, *rest], 1)}
        own = slice(*again.positive_offset_Q1[q : q + 2])
        positives = again.positive_index_P[own].tolist()
        assert again.positive_rank_P[own].tolist() == [rank_of[g] for g in positives]
        if positives:
            ahead = [*order, *rest][: min(rank_of[g] for g in positives) - 1]
            assert again.identity_rank_Q[q] == 1 + len({int(side.identity_N[g]) for g in ahead})


def test_the_cost_is_the_share_of_true_pairs_and_the_gain_that_of_others(traits):
    """True pairs of two encounters: 0-1 (other flank), 0-2, 1-2 (other flank) and 3-4; not 4-5,
    which are of one encounter."""
    side = _side([7, 7, 7, 8, 8, 8], [0, 1, 2, 3, 4, 4])
    figures = gate_figures(Gate(traits, True, False, None), side)
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5)]
    flanks = traits.flank_N
    lost = [flanks[a] >= 0 and flanks[b] >= 0 and flanks[a] != flanks[b] for a, b in pairs]
    others = [(a, b) for a in range(3) for b in range(3, 6)]
    spared = [flanks[a] >= 0 and flanks[b] >= 0 and flanks[a] != flanks[b] for a, b in others]
    assert figures["gate_true_pairs"] == 5
    assert figures["gate_flank_lost"] == figures["gate_lost"] == pytest.approx(np.mean(lost))
    assert figures["gate_flank_spared"] == pytest.approx(np.mean(spared), abs=1e-4)
    assert "gate_sex_lost" not in figures


def test_nothing_known_is_all_plausible():
    unknown = Traits(
        np.full(3, -1, np.int8), np.full(3, -1, np.int8), np.full((3, 2), np.nan),
        np.full((3, 2), np.nan), 0.0, np.full(3, np.nan), np.zeros(3, bool),
    )  # fmt: skip
    assert not Gate(unknown, True, True, 1.0).marks(np.arange(3), np.arange(3)).any()
