"""benchmark.adaptive as a user runs it: what is matched, what it changes, and that it repeats."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from exreid.calibration.budget_rule import BudgetRule, Candidates, match_by_risk
from exreid.calibration.fusion import Fusion
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import CalibrationError, ConfigError
from exreid.runs.probe import run_probe

LOCAL = "raw:aliked-n16"
SETTINGS = [
    *("benchmark.method=wildfusion", "benchmark.local_top_k=32", "benchmark.local_size=96"),
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.calibration.pairs=60"),
    "benchmark.candidate_k=12",
]
ADAPTIVE = [
    *("benchmark.adaptive.enabled=true", "benchmark.adaptive.risk=0.2"),
    *("benchmark.adaptive.batch=2", "benchmark.adaptive.least=2"),
]


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *SETTINGS, *more]
    return load_config(ProbeConfig, None, overrides)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """The whole shortlist and the budget, each with a store of its own for pairs."""
    out = tmp_path_factory.mktemp("adaptive")
    whole, _ = run_probe(_config(dataset, out))
    cache = out / "cache"
    shutil.copytree(out / ".exreid_cache", cache, ignore=shutil.ignore_patterns("pairs"))
    budget, result = run_probe(_config(dataset, out, *ADAPTIVE, f"benchmark.cache={cache}"))
    return out, whole, budget, result


def test_what_is_matched_is_what_the_rule_asks_for(runs, dataset):
    _, whole, budget, result = runs
    everything = pd.read_parquet(whole / "fusion.parquet").set_index(["query_id", "gallery_id"])
    evidence = pd.read_parquet(budget / "fusion.parquet")
    spent = pd.read_parquet(budget / "budget.parquet")
    content = json.loads((budget / "fusion.json").read_text())
    rule = BudgetRule.from_json(content["budget"])
    fusion = Fusion.from_json(content["fusion"])
    table = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str).set_index("path")
    gallery = table[table["split-time_closed"] == "train"]
    place = {image: i for i, image in enumerate(gallery.index)}
    codes = dict(zip(gallery.index, gallery["unique_name"].factorize()[0], strict=True))
    first = "raw:cosine:efficientnet-lite0"
    for (query, rows), one in zip(
        evidence.groupby("query_id", sort=False), spent.itertuples(), strict=True
    ):
        assert query == one.query_id
        matched = rows[LOCAL].notna()
        assert matched.sum() == one.pairs >= 2
        assert one.risk <= 0.2 or one.pairs == 12
        assert matched.is_monotonic_decreasing, "pairs that were not matched stand below"
        known = everything.loc[[(query, g) for g in rows["gallery_id"]]]
        assert np.array_equal(known[LOCAL][matched.to_numpy()], rows[LOCAL][matched])
        # The rule, played by hand on the scores of the whole shortlist.
        names = known.reset_index()
        names["place"] = names["gallery_id"].map(place)
        names = names.sort_values([first, "place"], ascending=[False, True])
        raw = names[[first, LOCAL]].to_numpy()
        part = fusion.apply(np.column_stack([raw[:, 0], np.full(12, np.nan)])).score_P
        candidates = Candidates(
            names["place"].to_numpy(),
            names["gallery_id"].map(codes).to_numpy(),
            rule.logits(raw[:, :1]),
            part,
        )
        score_P = fusion.apply(raw).score_P
        played = match_by_risk(rule, [candidates], score_P.__getitem__, risk=0.2, batch=2, least=2)
        assert set(names["gallery_id"][played.matched_P]) == set(rows["gallery_id"][matched])
    counts = result.counts
    assert counts["budget_pairs"] == spent["pairs"].sum() < 12 * len(spent)
    assert counts["budget_pairs_max"] == spent["pairs"].max()
    assert counts["budget_share"] == pytest.approx(spent["pairs"].sum() / 12 / len(spent), abs=1e-4)
    assert counts["budget_undecided"] == 0


def test_again_it_matches_nothing(runs, dataset):
    out, _, budget, _ = runs
    more = (*ADAPTIVE, f"benchmark.cache={out / 'cache'}")
    again, result = run_probe(_config(dataset, out, *more))
    assert result.counts["pairs_known"] == result.counts["pairs_matched"]
    for name in ("budget.parquet", "fusion.parquet", "rankings.parquet"):
        assert pd.read_parquet(again / name).equals(pd.read_parquet(budget / name))


def test_actors_spend_the_same(runs, dataset, local_ray, tmp_path):
    out, _, budget, first = runs
    cache = tmp_path / "cache"
    shutil.copytree(out / "cache", cache, ignore=shutil.ignore_patterns("pairs"))
    ray = ("ray.num_actors=1", "ray.cpus_per_worker=0.5")
    more = (*ADAPTIVE, f"benchmark.cache={cache}", *ray)
    spread, result = run_probe(_config(dataset, tmp_path, *more))
    assert result.counts["pairs_matched"] == first.counts["pairs_matched"]
    assert result.counts["pairs_known"] == first.counts["pairs_known"]
    for name in ("budget.parquet", "fusion.parquet", "rankings.parquet"):
        assert pd.read_parquet(spread / name).equals(pd.read_parquet(budget / name))


def test_a_saved_rule_is_used_and_a_missing_one_is_an_error(runs, dataset, tmp_path):
    out, _, budget, _ = runs
    load = f"benchmark.calibration.load={budget / 'fusion.json'}"
    cache = f"benchmark.cache={out / 'cache'}"
    again, _ = run_probe(_config(dataset, out, *ADAPTIVE, cache, load))
    assert pd.read_parquet(again / "budget.parquet").equals(
        pd.read_parquet(budget / "budget.parquet")
    )
    content = json.loads((budget / "fusion.json").read_text())
    del content["budget"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = f"benchmark.calibration.load={tmp_path / 'old.json'}"
    with pytest.raises(CalibrationError, match="no budget rule"):
        run_probe(_config(dataset, out, *ADAPTIVE, cache, old))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("benchmark.candidate_k=null", "set benchmark.candidate_k"),
        ("benchmark.method=local_lightglue", "calibrated local scores"),
        ("benchmark.fusion.local_features=[]", "calibrated local scores"),
        ("benchmark.adaptive.most=1", "is more than most"),
    ],
)
def test_what_cannot_stop_early_says_so(wrong, message):
    with pytest.raises(ConfigError, match=message):
        _config(".", ".", *ADAPTIVE, wrong)
