"""The report of a finished run: what its pages hold, that texts stay texts, and what is missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks._made_run import MadeRun, make_run
from exreid.cli import main
from exreid.errors import RunError
from exreid.explain.answer_words import told_answer
from exreid.explain.comparison_plots import GroupTop1
from exreid.explain.page_plots import groups_plot
from exreid.records import GalleryQuality
from exreid.runs.report import write_report
from exreid.storage.files import temporary_beside

HOSTILE = (
    "<script>alert(1)</script>",
    'O\'Hara "the" & co',
    "Ünï ✦ 猫",
    "../..",
    "</script><img src=x onerror=alert(2)>",
    "$x^2$ {{7*7}} ${1+1}",
    "# ? % & = + ;",
    "line\nbreak",
    "\u202ertl",
)
MADE = MadeRun(40, 80, 14, names=HOSTILE, photo_wh_px=(160, 120), kept_matches=2, shortlist=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    run, data = make_run(folder, MADE)
    return run, data, write_report(run, workers=1).parent


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def _parsed(file):
    parser = _Tags()
    parser.feed(file.read_text(encoding="utf-8"))
    return parser


def _handed_over(file):
    text = file.read_text(encoding="utf-8")
    return json.loads(text[text.index(",") + 1 : text.rindex(")")])


def test_texts_of_the_metadata_are_never_markup(made):
    _, _, out = made
    for page in ("index.html", "queries.html", "trust.html", "run.html"):
        parsed = _parsed(out / page)
        assert all(not name.startswith("on") for _, attrs in parsed.tags for name in attrs)
        scripts = [attrs["src"] for tag, attrs in parsed.tags if tag == "script"]
        assert all(re.fullmatch(r"(static|data)/\w+\.js", source) for source in scripts)
        assert all(
            re.fullmatch(r"t/\w\w/\w+\.jpg", attrs["src"])
            for tag, attrs in parsed.tags
            if tag == "img"
        )
    shown = _parsed(out / "index.html").text
    assert sum(" ".join(name.split())[:20] in shown for name in HOSTILE) >= 2
    for script in out.glob("data/*.js"):
        assert "<" not in script.read_text(encoding="utf-8")
        script.read_bytes().decode("ascii")
    index = _handed_over(out / "data" / "index.js")
    assert set(HOSTILE) <= set(index["texts"]["animal"])


def test_a_plot_reads_no_label_as_mathematics_or_markup():
    rows = [
        GroupTop1("group", name, run, 0.5, 0.2, 0.8, queries=3, identities=2)
        for name in HOSTILE
        for run in ("_one", "$\\frac")
    ]
    svg = groups_plot("groups", rows, text='"quoted" <text>')
    parser = _Tags()
    parser.feed(svg)
    tags = {tag for tag, _ in parser.tags}
    assert not tags & {"script", "img", "foreignobject"}
    assert "$x^2$ {{7*7}} ${1+1}" in parser.text
    assert "$\\frac" in parser.text
    assert "_one" in parser.text
    assert parser.tags[0][1]["aria-label"] == '"quoted" <text>'


def test_nothing_comes_from_a_network(made):
    _, _, out = made
    for file in [*out.glob("*.html"), *out.glob("static/*"), *out.glob("data/*.js")]:
        text = file.read_text(encoding="utf-8")
        found = set(re.findall(r"https?://[^\s\"')]+", text))
        assert all(one.startswith("http://www.w3.org/") for one in found), file
        assert "@import" not in text


def test_the_list_says_what_the_files_say(made):
    run, _, out = made
    index = _handed_over(out / "data" / "index.js")
    queries = pd.read_parquet(run / "queries.parquet")
    rankings = pd.read_parquet(run / "rankings.parquet")
    answers = pd.read_parquet(run / "answers.parquet").query("rank == 1").set_index("query_id")
    decisions = pd.read_parquet(run / "open_set.parquet").set_index("query_id")
    assert index["id"] == queries["query_id"].tolist()
    for q, name in enumerate(index["id"]):
        truth = index["texts"]["animal"][index["truth"][q]]
        leader = index["texts"]["animal"][index["leader"][q]]
        assert truth == queries["identity"][q]
        assert leader == answers["identity"][name]
        hits = rankings.query("query_id == @name and is_match")["rank"]
        assert index["rank"][q] == (hits.min() if len(hits) else 0)
        expected = (
            "new" if queries["positives"][q] == 0 else "right" if truth == leader else "wrong"
        )
        assert ["right", "wrong", "new", "open"][index["outcome"][q]] == expected
        assert ["known", "new"][index["decision"][q]] == decisions["decision"][name]
        p = decisions["known_probability"][name]
        assert index["p"][q] == pytest.approx(p, rel=1e-5)
        assert index["said"][q] == told_answer(leader, p, decisions["decision"][name]).sentence
    text = _parsed(out / "index.html").text
    right = index["outcome"].count(0)
    assert f"{right} ({100 * right / (right + index['outcome'].count(1)):.1f}%)" in text


def test_a_query_has_its_card_its_animals_and_its_matches(made):
    run, _, out = made
    part = _handed_over(out / "data" / "part-0000.js")
    index = _handed_over(out / "data" / "index.js")
    matches = pd.read_parquet(run / "matches.parquet")
    fusion = pd.read_parquet(run / "fusion.parquet")
    rows = matches[matches["query_id"] == index["id"][0]]
    query = part["queries"][0]
    names = {i: photo[0] for i, photo in enumerate(part["photos"])}
    assert names[query["photo"]] == index["id"][0]
    assert {names[int(i)] for i in query["pairs"]} == set(rows["gallery_id"])
    best = rows.iloc[0]
    (entry,) = (e for i, e in query["pairs"].items() if names[int(i)] == best["gallery_id"])
    assert entry["count"] == (best["confidence"] > 0.5).sum()
    assert entry["weaker"] == (best["confidence"] <= 0.5).sum()
    counted = best["query_xy"].reshape(-1, 2)[best["confidence"] > 0.5]
    points = np.array(entry["points"]).reshape(-1, 7)
    assert points[:, :2] / 2000 == pytest.approx((counted + 0.5) / best["query_wh_px"], abs=6e-3)
    assert all(layer.startswith("data:image/webp;base64,") for layer in entry["heat"])
    first = fusion[(fusion["query_id"] == index["id"][0]) & (fusion["rank"] == 1)].iloc[0]
    card = query["card"]
    assert sum(one["contribution"] for one in card["parts"]) == pytest.approx(
        first["score"], rel=1e-4
    )
    assert card["sentences"][0].endswith(".")
    own = [animal["own"] for animal in query["animals"]]
    assert own.count(True) == (0 if index["outcome"][0] == 2 else 1)
    places = [animal["images"] for animal in query["animals"]]
    assert all(1 <= len(images) <= 3 for images in places)
    assert len({i for images in places for i in images}) == sum(map(len, places))


def test_a_second_report_makes_nothing_again(made, tmp_path):
    run, _, out = made
    copy = tmp_path / "report"
    shutil.copytree(out, copy)
    files = sorted(file for file in copy.rglob("*") if file.is_file())
    before = {file: file.stat().st_mtime_ns for file in files}
    write_report(run, copy, workers=1)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    # Another run's page in the same folder: pages anew, photographs as they were.
    (copy / "report.json").write_text("{}")
    lost = next(copy.glob("p/*/*.jpg"))
    content = lost.read_bytes()
    lost.unlink()
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    half = temporary_beside(lost)
    half = half.with_name(half.name.replace(f"-{os.getpid()}-", f"-{killed.pid}-"))
    half.write_bytes(b"half")
    write_report(run, copy, workers=1)
    assert not half.exists()
    changed = {
        file.relative_to(copy).parts[0]
        for file in files
        if file.stat().st_mtime_ns != before[file] and file != lost
    }
    assert not changed & {"t", "p"}
    assert "index.html" in changed
    assert lost.read_bytes() == content


def test_photographs_that_moved_and_ones_that_are_lost(made, tmp_path):
    run, data, _ = made
    there = tmp_path / "elsewhere"
    shutil.copytree(data, there)
    away = tmp_path / "run"
    shutil.copytree(run, away, ignore=shutil.ignore_patterns("report"))
    snapshot = (away / "config.snapshot.yaml").read_text().replace(str(data), str(data) + "-gone")
    (away / "config.snapshot.yaml").write_text(snapshot)
    with pytest.raises(RunError, match=rf"{data}-gone.*--root FOLDER"):
        write_report(away)
    with pytest.raises(RunError, match="cannot be read from /nowhere.*--root"):
        write_report(away, root="/nowhere")
    index = _handed_over(made[2] / "data" / "index.js")
    (there / index["id"][0]).unlink()
    out = write_report(away, root=str(there), workers=1).parent
    text = _parsed(out / "index.html").text
    assert index["id"][0] in text
    assert "no such file" in text
    assert _handed_over(out / "data" / "index.js")["key"][0] == ""
    shutil.rmtree(there / "photos")
    (out / "pictures.parquet").unlink()
    (out / "report.json").unlink()
    with pytest.raises(RunError, match=r"none of its \d+ photographs can be read.*--root FOLDER"):
        write_report(away, root=str(there), workers=1)


def test_what_is_missing_is_said_with_its_command(made, tmp_path):
    run, _, _ = made
    bare = tmp_path / "it's bare"
    bare.mkdir()
    for name in ("result.json", "config.snapshot.yaml", "queries.parquet", "rankings.parquet"):
        shutil.copy(run / name, bare / name)
    assert main(["report", str(bare), "--workers", "1"]) == 0
    parsed = _parsed(bare / "report" / "index.html")
    for command in (
        "benchmark.keep_matches=5",
        "benchmark.open_set.enabled=true",
        "dataset.encounter_cols=[COLUMN]",
        "benchmarks/faithfulness.py --data",
    ):
        assert command in parsed.text
    snapshot = f"{tmp_path}/it'\"'\"'s bare/config.snapshot.yaml"
    assert f"exreid probe --config '{snapshot}' output.run_id=NEW_NAME" in parsed.text


def test_unknown_truth_is_neither_right_nor_wrong(made, tmp_path):
    run, data, _ = made
    asked = tmp_path / "identified"
    shutil.copytree(run, asked, ignore=shutil.ignore_patterns("report", "calibration*"))
    result = json.loads((asked / "result.json").read_text())
    result |= {"kind": "identify", "metrics": {}, "intervals": {}, "run_id": "tonight"}
    result |= {
        "quality": asdict(GalleryQuality("poor", 0.0, 0.1, 0.5, 0.2, None, 9, False, "Too few."))
    }
    (asked / "result.json").write_text(json.dumps(result))
    for name, columns in {
        "rankings": ["is_match"],
        "answers": ["is_match"],
        "open_set": ["identity", "is_known", "is_right"],
        "queries": ["identity"],
    }.items():
        table = pq.read_table(asked / f"{name}.parquet")
        for column in columns:
            place = table.schema.get_field_index(column)
            nothing = pa.nulls(len(table), table.schema.field(column).type)
            table = table.set_column(place, column, nothing)
        if name == "answers":
            table = table.append_column("probability", table.column("score"))
        pq.write_table(table, asked / f"{name}.parquet")
    rows = pd.read_csv(data / "metadata.csv", dtype=str, keep_default_na=False)
    photos = pd.DataFrame(
        {"image_id": rows["path"], "root": str(data), "path": rows["path"], "mask": rows["mask"]}
    )
    is_query = rows["split"] == "test"
    photos["identity"] = rows["unique_name"].where(~is_query, None)
    photos.loc[len(photos) - 1, ["root", "path"]] = None
    photos.to_parquet(asked / "photos.parquet")
    out = write_report(asked, workers=1).parent
    index = _handed_over(out / "data" / "index.js")
    assert set(index["outcome"]) == {3}
    assert index["truth_known"] is False
    text = _parsed(out / "index.html").text
    decided = pd.read_parquet(asked / "open_set.parquet")
    sure = (decided["decision"] == "known") == (decided["known_probability"] > 0.5)
    known, new = (int((sure & (decided["decision"] == name)).sum()) for name in ("known", "new"))
    assert f"Of 40 photographs, {known} look like known animals, {new} look new" in text
    assert "right animal" not in text
    assert "The gallery: poor. This gallery cannot tell these animals apart." in text
    assert text.count("Too few.") == 1
    assert "these numbers are too good" in text
    assert (
        f"Known animals ({decided[sure & (decided['decision'] == 'known')].leader.nunique()})"
        in text
    )
    assert "The surest mistakes" not in text
    entries = _handed_over(out / "data" / "part-0000.js")["queries"]
    assert all(animal["own"] is None for one in entries for animal in one["animals"])
    assert all(animal["chance"] is not None for animal in entries[0]["animals"][:1])
    table = pq.read_table(asked / "open_set.parquet")
    nothing = pa.nulls(len(table), pa.string())
    place = table.schema.get_field_index("decision")
    pq.write_table(table.set_column(place, "decision", nothing), asked / "open_set.parquet")
    undecided = write_report(asked, tmp_path / "undecided", workers=1).parent
    index = _handed_over(undecided / "data" / "index.js")
    assert all(said.startswith("Nearest: ") for said in index["said"])
    text = _parsed(undecided / "index.html").text
    assert "40 photographs answered, by the nearest animals alone." in text
    assert "New animals" not in text
    with pytest.raises(RunError, match="without known animals cannot be compared"):
        write_report(asked, tmp_path / "other", compare=[run])


def test_probabilities_that_are_no_better_than_the_average_reassure_nobody(made, tmp_path):
    run, _, out = made
    assert "% better" in _parsed(out / "trust.html").text
    worse = tmp_path / "worse"
    shutil.copytree(run, worse, ignore=shutil.ignore_patterns("report", "fusion.json"))
    table = pd.read_parquet(worse / "open_set.parquet")
    table["known_probability"] = np.where(table["is_right"], 0.1, 0.9)
    table.to_parquet(worse / "open_set.parquet")
    text = _parsed(write_report(worse, workers=1).parent / "trust.html").text
    assert "no better" in text
    assert "Do not go by these probabilities." in text
    assert "% better" not in text


def test_runs_compared(made, tmp_path):
    run, _, _ = made
    other = tmp_path / "other <b>"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("report"))
    out = write_report(run, tmp_path / "out", compare=[other], workers=1).parent
    parsed = _parsed(out / "index.html")
    assert parsed.text.count("other <b>") >= 2, "in the table, and in the plots"
    assert "+0.0" in parsed.text


def test_folders_that_are_no_finished_run(made, tmp_path):
    run, _, _ = made
    with pytest.raises(RunError, match=r"no result.json to read.*RUN_ID"):
        write_report(tmp_path)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    record = json.loads((run / "result.json").read_text())
    (stopped / "result.json").write_text(json.dumps(record | {"status": "failed"}))
    with pytest.raises(RunError, match="status is 'failed'"):
        write_report(stopped)
    (stopped / "result.json").write_text(json.dumps(record))
    shutil.copy(run / "config.snapshot.yaml", stopped)
    with pytest.raises(RunError, match="nothing to report"):
        write_report(stopped)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(RunError, match="has other files"):
        write_report(run, tmp_path / "mine")
    with pytest.raises(RunError, match="no column 'sight'"):
        write_report(run, tmp_path / "out", site_column="sight")


def test_the_processes_for_pictures_import_little():
    imports = "import sys, exreid.report.matched_pairs, exreid.report.pictures; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", imports], capture_output=True, text=True, check=True
    )
    assert not {"torch", "ray", "matplotlib"} & set(done.stdout.split())
