"""Answers by animal and by visit, and decisions between known and new, as a run writes them."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import write_dataset
from exreid.errors import CalibrationError
from exreid.explain.plots import draw_open_set
from exreid.metrics.openset import Answers, balanced_accuracies, open_set_curve
from exreid.pipeline.answer_metrics import _geometric
from exreid.runs.probe import recompute_metrics, run_probe

OPTIONS = [
    *("dataset.image_size=96", "ray.num_actors=0", "benchmark.bootstrap_resamples=50"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.open_set.queries=60"),
    *("benchmark.open_set.enabled=true", "dataset.split_col=split-time_open"),
]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open") / "data"
    write_dataset(folder, identities=14, images_per_identity=16, seed=3, workers=2)
    return folder


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *OPTIONS, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def decided(many, tmp_path_factory):
    out = tmp_path_factory.mktemp("decided")
    folder, result = run_probe(_config(many, out))
    return out, folder, result


def test_decisions_and_their_numbers(decided, tmp_path):
    _, folder, result = decided
    rows = pd.read_parquet(folder / "open_set.parquet")
    rankings = pd.read_parquet(folder / "rankings.parquet")
    first = rankings[rankings["rank"] == 1].set_index("query_id").loc[rows["query_id"]]
    assert np.array_equal(first["is_match"], rows["is_right"])
    assert np.array_equal(first["score"], rows["score"].astype(np.float32))
    known = rows["query_id"].isin(rankings[rankings["is_match"]]["query_id"])
    assert np.array_equal(known, rows["is_known"])
    assert 0 < known.sum() < len(rows), "the split holds both"
    bar = json.loads((folder / "open_set.json").read_text())["bar"]
    assert np.array_equal(rows["decision"] == "known", rows["known_probability"] > bar)
    metrics = result.metrics
    assert metrics["new_auroc"] == pytest.approx(roc_auc_score(known, rows["known_probability"]))
    right = rows[rows["is_right"] | ~known]
    of_right = roc_auc_score(right["is_right"], right["known_probability"])
    assert metrics["right_auroc"] == pytest.approx(of_right)
    accepted = rows["decision"] == "known"
    baks = (accepted & rows["is_right"])[known].groupby(rows["identity"]).mean().mean()
    baus = (~accepted)[~known].groupby(rows["identity"]).mean().mean()
    assert metrics["BAKS"] == pytest.approx(baks)
    assert metrics["BAUS"] == pytest.approx(baus)
    assert metrics["open_set_score"] == pytest.approx(np.sqrt(baks * baus))
    assert metrics["false_match_rate"] == pytest.approx(accepted[~known].mean())
    for name in ("new_auroc", "right_auroc", "open_set_score", "BAUS"):
        low, high = result.intervals[name]
        assert low <= metrics[name] <= high
    columns = (rows[name].to_numpy() for name in ("known_probability", "is_known", "is_right"))
    answers = Answers(*columns, pd.factorize(rows["identity"])[0])
    draw_open_set(tmp_path / "open_set.png", *open_set_curve(answers))
    drawn, again = (np.asarray(Image.open(at / "open_set.png")) for at in (folder, tmp_path))
    assert np.array_equal(drawn, again)
    assert recompute_metrics(folder, _config(".", ".")).metrics == metrics


def test_what_is_called_new_is_grouped(decided, many):
    out, folder, result = decided
    rows = pd.read_parquet(folder / "new_animals.parquet")
    decisions = pd.read_parquet(folder / "open_set.parquet")
    new = decisions[decisions["decision"] == "new"]
    assert rows["query_id"].tolist() == new["query_id"].tolist()
    assert rows["identity"].tolist() == new["identity"].tolist()
    assert rows["group"].drop_duplicates().tolist() == list(range(1, rows["group"].max() + 1))
    assert (rows.groupby("group")["query_id"].transform("size") == rows["group_photos"]).all()
    assert (rows.groupby("encounter")["group"].nunique() == 1).all(), "visits are linked"
    assert result.counts["called_new"] == len(rows)
    assert result.counts["new_groups"] == rows["group"].nunique()
    metrics = result.metrics
    ari = adjusted_rand_score(rows["identity"], rows["group"])
    assert metrics["new_ari"] == pytest.approx(ari)
    assert metrics["new_ari_visits"] == pytest.approx(
        adjusted_rand_score(rows["identity"], rows["encounter"])
    )
    low, high = result.intervals["new_ari"]
    assert low <= high
    figures = json.loads((folder / "open_set.json").read_text())["new_animals"]
    assert figures["visits_linked"] is True
    free, _ = run_probe(_config(many, out, "benchmark.open_set.link_visits=off"))
    assert json.loads((free / "open_set.json").read_text())["new_animals"]["visits_linked"] is False


def test_a_stricter_rate_calls_fewer_animals_known(decided, many):
    out, folder, _ = decided
    runs = [
        run_probe(_config(many, out, f"benchmark.open_set.false_match_rate={rate}"))[0]
        for rate in (0.1, 0.5)
    ]
    accepted = [
        (pd.read_parquet(run / "open_set.parquet")["decision"] == "known").sum() for run in runs
    ]
    assert accepted[0] < accepted[1]
    balanced, _ = run_probe(_config(many, out, "benchmark.open_set.rule=balanced"))
    one, two = (json.loads((run / "open_set.json").read_text()) for run in (runs[0], balanced))
    assert one["stated_false_match_rate"] == 0.1
    assert two["stated_false_match_rate"] is None
    assert one["reason"] is None is two["reason"]
    assert one["bar"] != two["bar"]
    assert one["coefficients"] == two["coefficients"]
    # 12 animals cannot promise the 5% of the run itself.
    content = json.loads((folder / "open_set.json").read_text())
    assert content["stated_false_match_rate"] is None
    assert content["promised_for"] is None
    assert "5% needs 19 animals" in content["reason"]
    assert content["bar"] == 0.5
    decision = pd.read_parquet(folder / "open_set.parquet")["decision"]
    assert set(decision) == {"known", "new"}, "so few animals are not all called new"


def test_the_open_set_score_of_resamples_equals_its_definition():
    rng = np.random.default_rng(0)
    identity_Q = rng.integers(0, 12, 90) * 7
    known_Q = identity_Q < 50
    answers = Answers(rng.random(90), known_Q, known_Q & (rng.random(90) < 0.6), identity_Q)
    statistic = _geometric(balanced_accuracies(answers, 0.5), identity_Q)
    accepted_Q = answers.score_Q > 0.5
    for _ in range(20):
        drawn = dict(zip(np.unique(identity_Q), rng.integers(0, 3, 12), strict=True))
        means = []
        for value_Q, part_Q in (
            (accepted_Q & answers.right_Q, known_Q),
            (~accepted_Q, ~known_Q),
        ):
            animals = [a for a in np.unique(identity_Q[part_Q]) for _ in range(drawn[a])]
            means.append(np.mean([value_Q[identity_Q == a].mean() for a in animals]))
        weight_Q = np.array([drawn[a] for a in identity_Q], float)
        assert statistic(weight_Q) == pytest.approx(np.sqrt(means[0] * means[1]))
    assert np.isnan(statistic(known_Q.astype(float)))


def test_answers_by_animal_and_by_visit(decided, many):
    out, folder, result = decided
    answers = pd.read_parquet(folder / "answers.parquet")
    first = answers[answers["rank"] == 1]
    assert first["is_match"].mean() == result.metrics["identity_top_1"]
    assert (answers.groupby("query_id")["score"].diff().fillna(0) <= 0).all()
    assert not answers.duplicated(["query_id", "identity"]).any()
    visits = pd.read_parquet(folder / "encounters.parquet")
    assert visits["photos"].sum() == result.counts["queries"]
    assert visits["photos"].max() > 1
    assert result.metrics["encounter_top_1"] == (visits["identity_rank"] == 1).mean()
    mean, _ = run_probe(_config(many, out, "benchmark.identity_score=mean_top"))
    other = pd.read_parquet(mean / "answers.parquet")
    assert not other["score"].equals(answers["score"])


def test_a_database_that_teaches_nothing_is_an_error(many, tmp_path):
    data = tmp_path / "one"
    write_dataset(data, identities=4, images_per_identity=6, seed=1)
    file = next(data.glob("*Real.csv"))
    rows = pd.read_csv(file, dtype=str)
    rows["encounter"] = rows["unique_name"]
    rows.to_csv(file, index=False)
    with pytest.raises(CalibrationError, match=r"benchmark\.open_set\.queries"):
        run_probe(_config(data, tmp_path, "dataset.split_col=split-time_closed"))
