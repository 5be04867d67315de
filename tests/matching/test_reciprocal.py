"""k-reciprocal re-ranking against its naive twin, and what an answer may depend on."""

import numpy as np
import pytest

from exreid.matching.cosine import rank_by_cosine
from exreid.matching.reciprocal import ReciprocalGallery, ReciprocalSettings
from exreid.records import RetrievalSide
from tests.reference.naive_reciprocal import naive_scores


def _side(places, identities, encounters=None):
    places = np.asarray(places)
    encounters = np.full(len(places), -1) if encounters is None else encounters
    return RetrievalSide(
        tuple(map(str, places)), places, np.asarray(identities), np.asarray(encounters, np.int32)
    )


def _animals(count, each, *, seed, noise=0.7):
    random = np.random.default_rng(seed)
    centre = random.normal(size=(count, 8))
    identity_N = np.repeat(np.arange(count), each)
    vectors = centre[identity_N] + noise * random.normal(size=(count * each, 8))
    return vectors.astype(np.float32), identity_N


def _both(vectors, identity, query_N, settings, *, encounter=None, seed=0):
    """Scores of each query by the package and by the twin, over all that may answer it."""
    gallery_N = np.setdiff1d(np.arange(len(vectors)), query_N)
    encounter = np.full(len(vectors), -1) if encounter is None else encounter
    queries = _side(query_N, identity[query_N], encounter[query_N])
    gallery = _side(gallery_N, identity[gallery_N], encounter[gallery_N])
    ranking = rank_by_cosine(
        vectors[query_N], vectors[gallery_N], queries, gallery, exclude="encounter", keep=1000
    )
    whole = ReciprocalGallery(vectors[gallery_N], gallery, settings, most_excluded=6)
    for q, place in enumerate(query_N):
        allowed = ranking.candidate_index_QK[q]
        allowed = allowed[allowed >= 0]
        excluded = np.setdiff1d(np.arange(len(gallery_N)), allowed)
        got = whole.scores(vectors[place], place, allowed[: settings.k1], allowed, excluded)
        want = naive_scores(
            vectors[place],
            vectors[gallery_N],
            place,
            gallery_N,
            sorted(allowed.tolist()),
            settings.k1,
            settings.k2,
            settings.cosine_share,
        )
        yield got, np.array([want[g] for g in allowed.tolist()])


@pytest.mark.parametrize(
    ("k1", "k2", "share"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 0.9), (1, 1, 0.3), (60, 4, 0.3)]
)
def test_it_agrees_with_the_paper_told_naively(k1, k2, share):
    vectors, identity = _animals(9, 5, seed=k1)
    random = np.random.default_rng(3)
    query = np.sort(random.choice(len(vectors), 12, replace=False))
    settings = ReciprocalSettings(k1, k2, share)
    for got, want in _both(vectors, identity, query, settings):
        assert got == pytest.approx(want, abs=1e-12)
        assert np.unique(want).size > 5


def test_excluded_images_are_nobody_s_neighbour():
    vectors, identity = _animals(6, 6, seed=2)
    encounter = np.arange(len(vectors)) // 3
    query = np.arange(1, len(vectors), 6)
    settings = ReciprocalSettings(5, 3, 0.3)
    for got, want in _both(vectors, identity, query, settings, encounter=encounter):
        assert got == pytest.approx(want, abs=1e-12)


def test_equal_images_stand_in_the_table_s_order():
    vectors, identity = _animals(4, 5, seed=5)
    vectors[[3, 11, 17]] = vectors[3]
    settings = ReciprocalSettings(4, 2, 0.3)
    for got, want in _both(vectors, identity, np.array([2, 11]), settings):
        assert got == pytest.approx(want, abs=1e-12)


def test_two_pairs_of_neighbours_by_hand():
    # The query and the first image name each other: their encodings are (1, w) and (w, 1), scaled,
    # with w = exp(cos 1 - 1), which share 2w of 2. The other two name each other alone.
    angle = np.radians([0.0, 1.0, 10.0, 10.5])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    gallery = _side(np.arange(1, 4), [0, 1, 1])
    whole = ReciprocalGallery(vectors[1:], gallery, ReciprocalSettings(1, 1, 0.3))
    got = whole.scores(vectors[0], 0, np.array([0]), np.arange(3), np.array([], int))
    cosine = np.cos(angle[1:])
    jaccard = np.array([np.exp(cosine[0] - 1), 0.0, 0.0])
    assert got == pytest.approx(0.7 * jaccard + 0.3 * cosine, abs=1e-6)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"k1": 0}, {"k2": 0}, {"cosine_share": 1.5}):
        with pytest.raises(ValueError, match="k1 and k2"):
            ReciprocalSettings(**wrong)
