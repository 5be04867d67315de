"""The demo: each of its commands runs as printed, and the page that it ends with is there."""

import json
import shlex

import pandas as pd

from exreid.cli import main
from exreid.commands import demo


def test_the_demo_answers_and_ends_with_the_report(local_ray, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "IDENTITIES", 6)
    monkeypatch.setattr(demo, "IMAGES_PER_IDENTITY", 5)
    small = [
        *demo.DEMO_MATCHING,
        "benchmark.local_size=160",
        "benchmark.local_top_k=64",
        "ray.num_actors=0",
    ]
    fused = [word for word in demo.FUSED if word not in demo.DEMO_MATCHING]
    monkeypatch.setattr(demo, "DEMO_MATCHING", small)
    monkeypatch.setattr(demo, "FUSED", [*fused, *small])
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "demo"
    page = folder / "benchmark_runs" / "fused" / "report" / "index.html"
    assert said.rstrip().endswith(f"Open {page}")
    assert page.is_file()
    for name in ("cosine", "local", "fused"):
        record = json.loads((folder / "benchmark_runs" / name / "result.json").read_text())
        assert record["status"] == "completed"
    [answers] = (folder / "identifications").glob("*/identifications.csv")
    assert len(pd.read_csv(answers)) == 3
    printed = [line[2:] for line in said.splitlines() if line.startswith("$ exreid ")]
    assert [shlex.split(line)[1] for line in printed] == [
        *("probe", "probe", "probe", "compare", "gallery", "identify", "report"),
    ]
    assert main(shlex.split(printed[3])[1:]) == 0, "a printed line works when pasted"
