"""The order of the metadata's rows changes no number, but where the stated tie rule says so."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.calibration import pairs as module
from exreid.calibration.pairs import calibration_pairs
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.metadata import Columns, read_image_table, retrieval_sides, select_split
from exreid.data.synthetic import write_dataset
from exreid.metrics.ranking import rank_scores
from exreid.metrics.retrieval import QueryValues, average_values
from exreid.metrics.uncertainty import bootstrap_intervals
from exreid.openset.decide import calibration_queries
from exreid.openset.group import whole_identities
from exreid.records import RetrievalSide
from exreid.runs.probe import measure, run_probe

SMALL = [
    *("ray.num_actors=0", "dataset.image_size=64", "benchmark.bootstrap_resamples=20"),
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "benchmark.keep_candidates=100"),
    "dataset.encounter_cols=[source,encounter]",
]
METHODS = {
    "cosine": ["benchmark.cache=off"],
    "local": ["benchmark.method=local_lightglue"],
    # Fewer pairs and practice images than there are, so that some are drawn.
    "fused": [
        *(
            "benchmark.method=wildfusion",
            "benchmark.candidate_k=6",
            "benchmark.open_set.queries=12",
        ),
        "benchmark.calibration.pairs=60",
        *("benchmark.open_set.enabled=true", "dataset.split_col=split-time_open"),
        "benchmark.open_set.rule=balanced",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of its own, whose table is written again and again."""
    folder = tmp_path_factory.mktemp("rows") / "data"
    write_dataset(folder, identities=6, images_per_identity=6, seed=1)
    return folder


@pytest.fixture(scope="module")
def metadata(folder):
    (file,) = folder.glob("*.csv")
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def _probed(folder, rows, name, method):
    rows.to_csv(folder / f"{name}.csv", index=False)
    overrides = [f"dataset.root={folder}", f"dataset.metadata_file={name}.csv"]
    overrides += [f"output.root={folder.parent}", *SMALL, *METHODS[method]]
    config = load_config(ProbeConfig, None, overrides)
    run, result = run_probe(config)
    rankings = pd.read_parquet(run / "rankings.parquet").set_index(["query_id", "gallery_id"])
    return config, result, rankings.sort_index()


@pytest.mark.parametrize("method", ["cosine", "fused"])
def test_without_ties_no_metric_and_no_interval_changes_a_bit(folder, metadata, method):
    _, result, rankings = _probed(folder, metadata, f"{method}-straight", method)
    mixed = metadata.sample(frac=1, random_state=2)
    _, again, other = _probed(folder, mixed, f"{method}-mixed", method)
    assert again.metrics == result.metrics
    assert again.intervals == result.intervals
    pd.testing.assert_frame_equal(rankings, other, check_exact=True)
    tied = rankings.dropna().groupby("query_id")["score"].apply(lambda s: s.duplicated().any())
    assert not tied.any(), "else this test says less than its name"


def test_local_scores_that_tie_fall_by_the_rows_of_the_gallery_alone(folder, metadata):
    _, result, rankings = _probed(folder, metadata, "local-straight", "local")
    mixed = metadata.sample(frac=1, random_state=1)
    # The gallery's rows in their old order, on the places where the gallery stands now.
    kept, gallery = mixed.copy(), (mixed["split-time_closed"] == "train").to_numpy()
    kept[gallery] = metadata[metadata["split-time_closed"] == "train"].to_numpy()
    _, same, _ = _probed(folder, kept, "local-kept", "local")
    assert same.metrics == result.metrics
    assert same.intervals == result.intervals

    config, again, other = _probed(folder, mixed, "local-mixed", "local")
    assert other["score"].equals(rankings["score"])
    assert again.metrics != result.metrics, "small counts tie"
    table, _ = read_image_table(
        str(folder),
        metadata_file="local-mixed.csv",
        columns=Columns(split="split-time_closed"),
    )
    sides = (select_split(table, split) for split in ("test", "train"))
    queries, side = retrieval_sides(table, *sides)
    scores_QG = rankings["score"].unstack().loc[list(queries.image_ids), list(side.image_ids)]
    ranking = rank_scores(scores_QG.to_numpy(np.float32), queries, side)
    by_the_rule = measure(ranking, queries.identity_N, config)
    assert by_the_rule.metrics.items() <= again.metrics.items()
    assert by_the_rule.intervals.items() <= again.intervals.items()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), average=st.sampled_from(["queries", "identities"]))
def test_the_order_of_queries_changes_no_bit_of_a_metric(seed, average):
    rng = np.random.default_rng(seed)
    value_Q, counted_Q = rng.random(200) ** 9, rng.random(200) < 0.8
    identity_Q, order_Q = rng.integers(0, 20, 200), rng.permutation(200)
    straight = {"mAP": QueryValues(value_Q, counted_Q, average)}
    mixed = {"mAP": QueryValues(value_Q[order_Q], counted_Q[order_Q], average)}
    assert average_values(straight, identity_Q) == average_values(mixed, identity_Q[order_Q])
    assert bootstrap_intervals(straight, identity_Q, resamples=20) == bootstrap_intervals(
        mixed, identity_Q[order_Q], resamples=20
    )


def _side(order_N):
    """Thirty images of six animals, some of unknown encounters, in this order."""
    names = np.array([f"photo {i:02}" for i in range(30)])
    number = np.arange(30)
    encounter_N = np.where(number % 4 == 3, -1, number // 2).astype(np.int32)
    identity_N = (number // 5).astype(np.int32)
    return RetrievalSide(
        tuple(names[order_N]), np.arange(30) * 2, identity_N[order_N], encounter_N[order_N]
    )


def _nearest_by_name(side):
    """Best candidates that depend on the images alone."""
    number_N = np.array([int(name.split()[1]) for name in side.image_ids])

    def nearest(first_A, second_B):
        far_AB = (number_N[second_B] * 7 - number_N[first_A][:, None] * 3) % 31
        return second_B[np.argsort(far_AB, axis=1)[:, :4]]

    return nearest


@pytest.mark.parametrize("mode", ["disjoint_sets", "same_set"])
@pytest.mark.parametrize("listed", [0, 10**6])
def test_calibration_pairs_are_drawn_by_image_and_not_by_row(mode, listed, monkeypatch):
    monkeypatch.setattr(module, "LISTED_PAIRS", listed)

    def drawn(order_N):
        side = _side(order_N)
        found = calibration_pairs(side, _nearest_by_name(side), pairs=24, mode=mode, seed=3)
        names = np.array(side.image_ids)
        first, second = names[found.first_P].tolist(), names[found.second_P].tolist()
        return first, second, found.same_P.tolist(), found.weight_P.tolist(), found.fold_P.tolist()

    straight = drawn(np.arange(30))
    for seed in range(5):
        assert drawn(np.random.default_rng(seed).permutation(30)) == straight


@pytest.mark.parametrize("draw", [calibration_queries, whole_identities])
def test_practice_is_drawn_by_image_and_not_by_row(draw):
    straight = set(draw(_side(np.arange(30)), 13, 4).image_ids)
    for seed in range(5):
        mixed = _side(np.random.default_rng(seed).permutation(30))
        assert set(draw(mixed, 13, 4).image_ids) == straight
