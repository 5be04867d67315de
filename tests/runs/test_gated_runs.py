"""benchmark.gate as a user runs it, against the same run without it and the table's own cells."""

import json
import re
import shutil

import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import METADATA_FILE
from exreid.runs.discover import discover_config

SMALL = [
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"),
    *("dataset.encounter_cols=[source,encounter]", "dataset.viewpoint_col=pose"),
    *("benchmark.local_top_k=32", "benchmark.local_size=96"),
    *("dataset.split_col=split-time_open", "safety=off", "benchmark.keep_candidates=1000"),
]
METHODS = {
    "cosine": ["benchmark.method=cosine"],
    "local_index": ["benchmark.method=local_index"],
    "listed": ["benchmark.method=local_lightglue", "benchmark.candidate_k=3"],
    "all pairs": ["benchmark.method=local_lightglue"],
    "fused": [
        *("benchmark.method=wildfusion", "benchmark.candidate_k=3"),
        *("benchmark.calibration.pairs=40", "benchmark.calibration.exclude=image"),
    ],
}


@pytest.fixture(scope="module")
def data(few, tmp_path_factory):
    """The few photographs with the sex of each animal; that of one is unknown."""
    folder = tmp_path_factory.mktemp("gated") / "data"
    shutil.copytree(few, folder)
    table = pd.read_csv(folder / METADATA_FILE, dtype=str)
    animals = sorted(table["unique_name"].unique())
    sexes = dict(zip(animals, ["female", "M", None, "f"], strict=True))
    table.assign(sex=table["unique_name"].map(sexes)).to_csv(folder / METADATA_FILE, index=False)
    return folder


@pytest.fixture(scope="module")
def cells(data):
    return pd.read_csv(data / METADATA_FILE, dtype=str).set_index("path")


def _probe(data, name, *words):
    out = data.parent
    words = [f"dataset.root={data}", f"output.root={out}", f"output.run_id={name}", *SMALL, *words]
    assert main(["probe", "--quiet", *words]) == 0
    return out / "benchmark_runs" / name


def _reason(cells, query, other):
    """By the table; the sex of one animal is unknown."""
    a, b = cells.loc[query], cells.loc[other]
    words = ["the other flank"] if a["pose"] != b["pose"] else []
    sexes = {str(a["sex"])[0].lower(), str(b["sex"])[0].lower()}
    return ", ".join([*words, *(["the other sex"] if sexes == {"f", "m"} else [])])


def _of(folder, table="rankings"):
    rows = pd.read_parquet(folder / f"{table}.parquet")
    return dict(tuple(rows.groupby("query_id", sort=False)))


@pytest.mark.parametrize("method", METHODS)
def test_implausible_candidates_are_below_all_others_and_listed(data, cells, method):
    name = method.replace(" ", "_")
    keys = METHODS[method]
    plain = _probe(data, f"{name}_off", *keys)
    gate = ["benchmark.gate.flank=true", "benchmark.gate.sex=true"]
    folder = _probe(data, f"{name}_on", *keys, *gate)
    assert not (plain / "gated.parquet").exists()
    before, after, gated = _of(plain), _of(folder), _of(folder, "gated")
    assert gated
    for query, rows in after.items():
        is_match = dict(zip(rows["gallery_id"], rows["is_match"], strict=True))
        reasons = {other: _reason(cells, query, other) for other in rows["gallery_id"]}
        last_plausible = max(
            (
                rank
                for rank, other in zip(rows["rank"], rows["gallery_id"], strict=True)
                if not reasons[other]
            ),
            default=0,
        )
        for rank, other in zip(rows["rank"], rows["gallery_id"], strict=True):
            if reasons[other]:  # only an image of its animal stays in the ranking
                assert is_match[other]
                assert rank > last_plausible
        shown = gated.get(query, pd.DataFrame(columns=["gallery_id", "reason", "rank"]))
        for other, reason in zip(shown["gallery_id"], shown["reason"], strict=True):
            assert reason == _reason(cells, query, other) != ""
        if method in ("cosine", "local_index"):  # all candidates are known without it
            order = before[query].sort_values("rank")["gallery_id"].tolist()
            want = [other for other in order if not _reason(cells, query, other)]
            assert rows["gallery_id"].tolist()[: len(want)] == want
            ranks = [order.index(other) + 1 for other in shown["gallery_id"]]
            assert shown["rank"].tolist() == ranks
            assert set(shown["gallery_id"]) == set(order) - set(want)
    if method == "all pairs":
        assert pd.concat(gated.values())["rank"].isna().all()
    pairs = [json.loads((one / "result.json").read_text())["counts"] for one in (plain, folder)]
    assert pairs[1]["gate_sex_lost"] == 0  # each animal has one sex
    assert pairs[1]["gate_sex_spared"] > 0.1
    assert pairs[1]["gate_flank_lost"] > 0
    matched = [sum(n for name, n in one.items() if name.startswith("pairs_")) for one in pairs]
    if method == "all pairs":
        assert matched[1] < matched[0]


def test_a_photographs_page_shows_what_was_implausible_and_why(data):
    folder = _probe(data, "paged", *METHODS["cosine"], "benchmark.gate.sex=true")
    assert main(["report", str(folder), "--quiet"]) == 0
    text = (folder / "report" / "data" / "part-0000.js").read_text()
    start = text.index("{")
    queries = json.loads(text[start : text.rindex(")")])["queries"]
    shown = [one for query in queries for one in query["implausible"]]
    assert {one["reason"] for one in shown} == {"the other sex"}
    assert all(number >= 1 for one in shown for number in one["would_be"].values())


def test_distance_counts_by_the_days_between(data, cells):
    """With a millimetre a day every candidate of another place is too far."""
    folder = _probe(data, "far", *METHODS["cosine"], "benchmark.gate.max_km_per_day=1e-6")
    gated = pd.concat(_of(folder, "gated").values())
    assert gated["reason"].str.contains("km away within").all()
    ids = pd.read_parquet(folder / "queries.parquet")["query_id"]
    gallery = cells[cells["split-time_open"] == "train"]
    for query in ids:
        own = cells.loc[query]
        known = gallery["date"].notna() & pd.notna(own["date"])
        moved = (gallery["latitude"] != own["latitude"]) | (
            gallery["longitude"] != own["longitude"]
        )
        far = set(gallery.index[known & moved])
        assert set(gated[gated["query_id"] == query]["gallery_id"]) == far


def test_identify_says_which_animal_looks_nearer_and_is_implausible(data, cells, capsys):
    """The gallery keeps the sexes; a photograph's comes from its table. One without is answered by
    all."""
    out = data.parent
    gallery = str(out / "known.gallery")
    keys = [f"dataset.root={data}", f"output.root={out}", *SMALL, *METHODS["cosine"]]
    assert main(["gallery", "build", "--out", gallery, "--split", "train", "--quiet", *keys,
                 "benchmark.gate.sex=true"]) == 0  # fmt: skip
    assert "benchmark.gate rules out 0% of the pairs of one animal, and " in capsys.readouterr().out
    test = cells[cells["split-time_open"] == "test"]
    males = test[test["sex"] == "M"].index
    assert len(males)
    ask = ["identify", *(str(data / path) for path in males), "--gallery", gallery, "--quiet"]
    more = [f"output.root={out}", "ray.num_actors=0"]
    assert main([*ask, "--metadata", str(data / METADATA_FILE), *more, "output.run_id=m"]) == 0
    folder = out / "identifications" / "m"
    notes = pd.read_csv(folder / "identifications.csv", dtype=str)["note"].fillna("")
    gated = pd.read_parquet(folder / "gated.parquet")
    assert set(gated["reason"]) == {"the other sex"}
    female = set(cells.index[cells["sex"].isin(["female", "f"])])
    assert set(gated["gallery_id"]) <= female
    assert (
        notes.str.contains("looks nearer, but is implausible").sum()
        == (gated["rank"] == 1).sum()
        > 0
    )
    assert main(["report", str(folder), "--quiet"]) == 0
    assert main([*ask, *more, "output.run_id=unknown"]) == 0
    assert len(pd.read_parquet(out / "identifications" / "unknown" / "gated.parquet")) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benchmark.gate.sex=true"], "benchmark.gate.sex: needs a column sex"),
        (
            ["benchmark.gate.flank=true", "dataset.viewpoint_col=null"],
            "benchmark.gate.flank: needs",
        ),
        (
            ["benchmark.gate.max_km_per_day=5", "dataset.date_col=null"],
            "benchmark.gate.max_km_per_day: needs dataset.date_col",
        ),
        (
            ["benchmark.gate.flank=true", "benchmark.rerank.method=k_reciprocal"],
            "benchmark.gate and benchmark.rerank do not go together",
        ),
    ],
)
def test_a_check_of_what_no_image_has_is_an_error(few, tmp_path, capsys, words, message):
    keys = [f"dataset.root={few}", f"output.root={tmp_path}", *SMALL, *METHODS["cosine"]]
    assert main(["probe", "--quiet", *keys, *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_gate_that_leaves_nothing_to_fit_on_is_named_in_the_error(few, tmp_path, capsys):
    keys = [f"dataset.root={few}", f"output.root={tmp_path}", *SMALL, *METHODS["cosine"]]
    keys += ["benchmark.open_set.enabled=true", "benchmark.gate.max_km_per_day=1e-6"]
    table = pd.read_csv(few / METADATA_FILE, dtype=str)
    places = table.groupby("unique_name")["latitude"].nunique()
    assert places.min() > 1
    assert main(["probe", "--quiet", *keys]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "nothing to fit the decision known/new on" in said
    assert re.search(r"Or loosen benchmark.gate \(speed\): it rules out [1-9]\d*% of the", said)


def test_discover_has_no_gate(few, tmp_path, capsys):
    """One that is asked for is an error; a gallery's, which is for its answers, is left out."""
    words = [f"dataset.root={few}", f"output.root={tmp_path}", "benchmark.gate.flank=true"]
    assert main(["discover", "--quiet", *words, "dataset.viewpoint_col=pose"]) == 2
    assert "exreid discover has no gate" in capsys.readouterr().err
    config = load_config(ProbeConfig, None, words)
    assert not discover_config(config).benchmark.gate.enabled
