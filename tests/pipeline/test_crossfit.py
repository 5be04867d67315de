"""Leave-one-out with something fitted: nothing about a query's animal is known to its answer."""

import json

import numpy as np
import pandas as pd
import pytest

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.errors import CalibrationError
from exreid.matching.cosine import rank_by_cosine
from exreid.pipeline.crossfit import identity_folds, joined_rankings
from exreid.records import Ranking, RetrievalSide
from exreid.runs.probe import recompute_metrics, run_probe

OPTIONS = [
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=20"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.open_set.queries=60"),
    *("dataset.query_split_value=train", "dataset.database_split_value=train"),
    *("benchmark.open_set.enabled=true", "benchmark.method=wildfusion"),
    "benchmark.fusion.local_features=[]",
]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leave") / "data"
    write_dataset(folder, identities=8, images_per_identity=10, seed=5, workers=2)
    return folder


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *OPTIONS, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def answered(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("answered")
    folder, result = run_probe(_config(many, out))
    return out, folder, result


def test_no_fold_is_fitted_on_an_animal_that_it_answers_for(answered, many):
    _, folder, result = answered
    rows = pd.read_csv(next(many.glob("*Real.csv")), dtype=str).set_index("path")
    name = rows["unique_name"]
    queries = pd.read_parquet(folder / "open_set.parquet")
    assert len(queries) == result.counts["queries"]
    answered_by: dict[str, int] = {}
    folds = sorted((folder / "folds").iterdir())
    curves = [json.loads((fold / "fusion.json").read_text())["fusion"] for fold in folds]
    assert len(folds) == 4
    seen = []
    for fold in folds:
        pairs = pd.read_parquet(fold / "calibration_pairs.parquet")
        seen.append({*name[pairs["query_id"]], *name[pairs["gallery_id"]]})
    assert all(0 < len(animals) < 8 for animals in seen)
    evidence = pd.read_parquet(folder / "fusion.parquet")
    raw, said = evidence.columns[5], evidence.columns[6]
    assert (raw.split(":")[0], said.split(":")[0]) == ("raw", "probability")
    from exreid.calibration.curves import Calibration

    for query, part in evidence.groupby("query_id"):
        used = [
            number
            for number, curve in enumerate(curves)
            if np.array_equal(
                Calibration.from_json(curve["calibrations"][0]).apply(part[raw]),
                part[said],
            )
        ]
        assert len(used) == 1, "one fold's curve gives these probabilities"
        assert name[query] not in seen[used[0]]
        assert answered_by.setdefault(name[query], used[0]) == used[0]
    assert len(answered_by) == 8


def test_the_joined_files_stand_in_the_queries_order(answered, many):
    _, folder, result = answered
    order = pd.read_parquet(folder / "queries.parquet")["query_id"].tolist()
    for name in ("open_set", "fusion", "rankings"):
        rows = pd.read_parquet(folder / f"{name}.parquet")
        assert rows["query_id"].drop_duplicates().tolist() == order
    content = json.loads((folder / "open_set.json").read_text())
    assert len(content["folds"]) == 4
    assert not (folder / "new_animals.parquet").exists(), "one cut would be learned on the queries"
    assert recompute_metrics(folder, _config(many, ".")).metrics == result.metrics


def test_one_calibrated_method_ranks_as_it_did(answered, many):
    out, folder, _ = answered
    plain, _ = run_probe(
        _config(many, out, "benchmark.method=cosine", "benchmark.open_set.enabled=false")
    )
    orders = [
        pd.read_parquet(run / "rankings.parquet").sort_values(["query_id", "rank"])["gallery_id"]
        for run in (folder, plain)
    ]
    assert orders[0].tolist() == orders[1].tolist()


def test_joining_the_parts_of_a_ranking_gives_the_whole():
    rng = np.random.default_rng(0)
    identity = rng.integers(0, 7, 40)
    side = RetrievalSide(
        tuple(f"i{n}" for n in range(40)), np.arange(40), identity, np.full(40, -1)
    )
    vectors = rng.normal(size=(40, 5)).astype(np.float32)
    folds = identity_folds(side, seed=3)
    assert sorted(np.concatenate([fold.members for fold in folds]).tolist()) == list(range(40))
    for fold in folds:
        assert not set(fold.others(side).identity_N) & set(identity[fold.members])
    parts = [
        rank_by_cosine(vectors[fold.members], vectors, side.take(fold.members), side, keep=6)
        for fold in folds
    ]
    joined = joined_rankings(parts, [fold.members for fold in folds])
    whole = rank_by_cosine(vectors, vectors, side, side, keep=6)
    for field in Ranking.__dataclass_fields__:
        assert np.array_equal(getattr(joined, field), getattr(whole, field), equal_nan=True)
    few = side.take(np.flatnonzero(identity < 3))
    with pytest.raises(CalibrationError, match="too few to fit"):
        identity_folds(few, seed=0)
