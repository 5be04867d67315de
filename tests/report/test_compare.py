"""exreid compare on real runs: its files, its numbers, its refusals."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.explain.plots import COLOURS
from exreid.metrics.retrieval import QueryValues
from exreid.report.breakdown import date_gaps
from exreid.report.method_table import cell_text, method_table
from exreid.report.side_by_side import Comparison, FinishedRun, MetricChange, budget_points
from tests.explain.test_plots import pixels_of

OPTIONS = [
    *("dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=50"),
    "dataset.encounter_cols=[source,encounter]",
]


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    local = ["benchmark.method=local_lightglue", "benchmark.local_top_k=48"]
    local += ["benchmark.local_size=128"]
    kinds = {
        "cosine": [],
        "stretched": ["dataset.resize=stretch"],
        "local3": [*local, "benchmark.candidate_k=3"],
        "local6": [*local, "benchmark.candidate_k=6"],
        "visits": ["benchmark.exclude=encounter"],
        "other": ["dataset.split_col=split-time_open"],
    }
    for name, more in kinds.items():
        options = [f"dataset.root={dataset}", f"output.root={out}", f"output.run_id={name}"]
        assert main(["probe", *options, *OPTIONS, *more]) == 0
    return out / "benchmark_runs"


def test_the_files_say_what_the_runs_say(runs, tmp_path, capsys):
    names = ["cosine", "stretched", "local3", "local6"]
    arguments = [str(runs / name) for name in names]
    assert main(["compare", *arguments, "--out", str(tmp_path), "--group", "source"]) == 0
    shown = capsys.readouterr().out
    first = shown.split("In percent")[0]
    assert all(any(line.startswith(name) for line in first.splitlines()) for name in names)
    assert "…" not in shown
    assert max(len(line) for line in shown.split("In percent")[0].splitlines()) <= 80
    rows = pd.DataFrame(json.loads((tmp_path / "comparison.json").read_text()))
    results = {name: json.loads((runs / name / "result.json").read_text()) for name in names}
    table = rows.set_index(["run", "metric"])
    for name in names:
        for metric, value in results[name]["metrics"].items():
            assert table.loc[(name, metric), "value"] == value
    change = table.loc[("local6", "top_1"), "difference"]
    top_1 = [results[name]["metrics"]["top_1"] for name in ("cosine", "local6")]
    assert change == pytest.approx(top_1[1] - top_1[0])
    assert pd.isna(table.loc[("local6", "mAP_at_k"), "difference"]), "not a number of both"
    assert (table["p_holm"].dropna() >= table["p"].dropna()).all()
    flips = pd.read_csv(tmp_path / "flips.csv")
    for name in names[1:]:
        part = flips[flips["run"] == name]["became"].value_counts()
        gained = part.get("right", 0) - part.get("wrong", 0)
        queries = results[name]["counts"]["queries"]
        difference = results[name]["metrics"]["top_1"] - results["cosine"]["metrics"]["top_1"]
        assert gained == pytest.approx(difference * queries)
    identities = pd.read_csv(tmp_path / "identities.csv")
    mean = (identities["cosine"] * identities["queries"]).sum() / identities["queries"].sum()
    assert mean == pytest.approx(results["cosine"]["metrics"]["top_1"])
    groups = pd.read_csv(tmp_path / "groups.csv")
    assert {"source", "gallery images of the animal"} <= set(groups["group"])
    for _, part in groups.groupby(["group", "run"]):
        assert part["queries"].sum() == results["cosine"]["counts"]["queries"]
    drawn = {"cmc.png": (4, 1.0), "groups_source.png": (4, 0.8), "budget.png": (1, 1.0)}
    for name, (lines, alpha) in drawn.items():
        for colour in COLOURS[:lines]:
            assert pixels_of(tmp_path / name, colour, alpha=alpha).sum() > 100, (name, colour)
    assert main(["compare", *arguments, "--out", str(tmp_path), "--json"]) == 0
    assert pd.DataFrame(json.loads(capsys.readouterr().out)).equals(rows)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cosine"], "two runs"),
        (["cosine", "cosine"], "once"),
        (["cosine", "other"], "same queries"),
        (["cosine", "visits"], "benchmark.exclude"),
        (["cosine", "nowhere"], "result.json"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, tmp_path, capsys, names, message):
    arguments = [str(runs / name) for name in names]
    assert main(["compare", *arguments, "--out", str(tmp_path)]) in (1, 2)
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_failed_run_and_a_missing_column_are_named(runs, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    failed = json.loads((runs / "cosine" / "result.json").read_text()) | {"status": "failed"}
    (broken / "result.json").write_text(json.dumps(failed))
    assert main(["compare", str(runs / "cosine"), str(broken), "--out", str(tmp_path)]) == 1
    assert "failed" in capsys.readouterr().err
    both = [str(runs / "cosine"), str(runs / "stretched")]
    assert main(["compare", *both, "--out", str(tmp_path), "--group", "colour"]) == 1
    assert "colour" in capsys.readouterr().err


def test_days_to_the_nearest_gallery_image_that_may_answer():
    def table(*rows):
        frame = pd.DataFrame(rows, columns=["image_id", "identity", "encounter", "date"])
        return frame.astype(object)

    gallery = table(
        ("a", "Bela", "v1", pd.Timestamp("2024-03-01 23:50")),
        ("b", "Bela", "v2", pd.Timestamp("2024-03-20")),
        ("c", "Kira", None, None),
        ("d", "Zita", None, "2023-01-01"),
    )
    queries = table(
        ("a", "Bela", "v1", pd.Timestamp("2024-03-01 23:50")),  # the gallery's own image
        ("q", "Bela", "v1", pd.Timestamp("2024-03-02 00:10")),  # ten minutes, but another day
        ("r", "Kira", None, "2024-03-01"),
        ("s", "Bela", "v9", None),
        ("t", "Zita", None, "2024-03-01"),
        ("u", "new", None, "2024-03-01"),
    )
    unknown = ["unknown"] * 2
    image = ["7 to 30 days", "0 to 1 days", *unknown, "over 365 days", "unknown"]
    visit = ["7 to 30 days", "7 to 30 days", *unknown, "over 365 days", "unknown"]
    assert date_gaps(queries, gallery, "image") == image
    assert date_gaps(queries, gallery, "encounter") == visit


def test_one_table_in_each_format(runs, tmp_path, capsys):
    words = [
        "compare",
        f"plain={runs / 'cosine'}",
        f"a_b={runs / 'local6'}",
        "--out",
        str(tmp_path),
    ]
    metrics = ["--metric", "top_1", "--metric", "mAP"]
    results = [json.loads((runs / n / "result.json").read_text()) for n in ("cosine", "local6")]
    top_1 = [result["metrics"]["top_1"] for result in results]
    assert main([*words, *metrics, "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("method")
    assert table["top_1"].tolist() == pytest.approx(top_1)
    assert table.loc["plain", "top_1_low"] == results[0]["intervals"]["top_1"][0]
    assert pd.isna(table.loc["a_b", "mAP"]), "a shortlist has none"
    assert main([*words, *metrics, "--format", "markdown"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert (head, rule) == ("| method | top_1 | mAP |", "|---|---:|---:|")
    shown = [row.split("|")[2].strip(" *") for row in rows]
    assert [float(cell.split()[0]) for cell in shown] == [round(100 * value, 1) for value in top_1]
    assert main([*words, *metrics, "--format", "latex"]) == 0
    latex = capsys.readouterr().out
    assert latex.startswith("% In percent, with 95% intervals. Bold: the best, and what differs")
    assert "\\begin{tabular}{lrr}" in latex
    assert "a\\_b & " in latex
    assert main([*words, "--metric", "top_2"]) == 2
    assert "top_10" in capsys.readouterr().err


def _finished(name, right_Q, **given):
    counted_Q = np.ones(len(right_Q), bool)
    values = {"top_1": QueryValues(np.array(right_Q, float), counted_Q)}
    config = load_config(ProbeConfig, None, given.pop("words", []))
    run = FinishedRun(
        name=name,
        config=config,
        metrics={"top_1": float(np.mean(right_Q))},
        intervals={},
        counts={},
        timings_s={},
        gallery_images=100,
        query_ids=tuple(f"q{i}" for i in range(len(right_Q))),
        identities=tuple(f"a{i}" for i in range(len(right_Q))),
        identity_Q=np.arange(len(right_Q)),
        first_rank_Q=2 - np.array(right_Q),
        positives_Q=np.ones(len(right_Q), int),
        values=values,
    )
    return replace(run, **given)


def test_bold_are_the_best_and_what_chance_may_have_put_below():
    # Ten animals of one query. Of those that differ by one query, a resample has none in 0.9^10 =
    # 35% of cases, so that the interval reaches 0; by six, in 0.4^10 = 0.01%.
    one, six = [1] * 9 + [0], [1] * 4 + [0] * 6
    runs = (_finished("one", one), _finished("all", [1] * 10), _finished("six", six))
    changes = {
        ("top_1", run.name): MetricChange("top_1", run.name, run.metrics["top_1"], *[None] * 7)
        for run in runs
    }
    table = method_table(Comparison(runs, changes))
    assert [cell_text(table, name, "top_1")[1] for name in ("one", "all", "six")] == [1, 1, 0]


def test_seconds_are_those_of_all_pairs_or_none():
    """Ten queries, ten candidates of each."""

    def seconds(counts, *words):
        words = ["benchmark.method=local_lightglue", "benchmark.candidate_k=10", *words]
        timings = {"matching": 40.0}
        run = _finished("r", [1] * 10, words=words, counts=counts, timings_s=timings)
        (point,) = budget_points([run])
        assert point.pairs == 10
        return point.seconds

    assert seconds({"pairs_matched": 100, "pairs_known": 0}) == 4.0
    assert seconds({"pairs_matched": 100, "pairs_known": 50}) == 8.0, "the cache had half"
    assert seconds({"pairs_matched": 100, "pairs_known": 95}) is None, "5 pairs say little"
    assert seconds({"pairs_matched": 100, "pairs_known": 100}) is None
    fitted_on = {"pairs_matched": 150, "pairs_known": 50}
    assert seconds(fitted_on, "benchmark.method=wildfusion") is None
    stages = {"pairs_compared": 60, "pairs_matched": 40, "pairs_known": 10}
    assert seconds(stages, "benchmark.precision=fast") is None
    assert seconds(stages | {"pairs_known": 0}, "benchmark.precision=fast") == 4.0


def test_runs_of_one_method_are_one_line_of_the_budget():
    def run(name, *words):
        return _finished(name, [1, 0], words=[f"benchmark.method={words[0]}", *words[1:]])

    runs = [
        run("c", "cosine"),
        run("c2", "cosine", "model.batch_size=3", "dataset.image_size=96"),
        *(run(f"l{k}", "local_lightglue", f"benchmark.candidate_k={k}") for k in (5, 10)),
        run("all", "local_lightglue"),
        run(
            "a", "local_lightglue", "benchmark.candidate_k=5", "benchmark.matcher_checkpoint=m.pth"
        ),
        run("f", "local_lightglue", "benchmark.candidate_k=5", "benchmark.precision=fast"),
    ]
    points = [(point.method, point.pairs) for point in budget_points(runs)]
    local = [("local_lightglue", k) for k in (5, 10, 100)]
    others = [("local_lightglue adapted", 5), ("local_lightglue fast", 5)]
    assert points == [("cosine", 0), ("c2", 0), *local, *others]
    adaptive = replace(runs[2], counts={"budget_pairs_mean": 3.25})
    assert budget_points([adaptive])[0].pairs == 3.25


def test_another_comparison_is_not_overwritten(runs, tmp_path, capsys):
    first = ["compare", str(runs / "cosine"), str(runs / "stretched"), "--out", str(tmp_path)]
    other = ["compare", str(runs / "cosine"), str(runs / "local3"), "--out", str(tmp_path)]
    assert main(first) == 0
    assert main(first) == 0, "the same comparison again"
    before = (tmp_path / "comparison.json").read_bytes()
    assert main(other) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "comparison.json").read_bytes() == before
    assert main([*other, "--overwrite"]) == 0
    assert (tmp_path / "comparison.json").read_bytes() != before
