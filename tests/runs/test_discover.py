"""exreid discover as a user runs it: its tables, its sources of probabilities, its errors."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics

from exreid.cli import main
from exreid.commands import discover
from exreid.commands.common import Parser
from exreid.data.synthetic import METADATA_FILE
from exreid.progress import counted
from tests.run_schema import published_record

KEYS = [
    *("benchmark.local_top_k=64", "benchmark.local_size=128", "ray.num_actors=0"),
    "benchmark.bootstrap_resamples=50",
]


def _discover(*words):
    return main(["discover", "--quiet", *map(str, words), *KEYS])


@pytest.fixture(scope="module")
def found(few, tmp_path_factory):
    """A run on named animals, by the probabilities that come with the install."""
    out = tmp_path_factory.mktemp("discover")
    assert _discover(few, f"output.root={out}", "output.run_id=named") == 0
    return out, out / "discoveries" / "named"


@pytest.fixture(scope="module")
def unnamed(few, found):
    """The same photographs without a table, in folders that are called like visits."""
    out, _ = found
    metadata = pd.read_csv(few / METADATA_FILE, dtype=str)
    card = out / "card"
    for row in metadata.to_dict("records"):
        folder = card / f"{row['source']}" / f"visit_{row['encounter']}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(few / row["path"], folder / row["path"].rpartition("/")[2])
    return card


def test_its_tables_agree_with_each_other_and_its_figures_with_scikit_learn(found, few):
    _, folder = found
    animals = pd.read_parquet(folder / "animals.parquet")
    metadata = pd.read_csv(few / METADATA_FILE, dtype=str)
    assert animals["image_id"].tolist() == metadata["path"].tolist()
    assert animals["identity"].tolist() == metadata["unique_name"].tolist()
    assert animals.groupby("encounter")["group"].nunique().max() == 1
    assert animals["probability"].between(0, 1).all()
    record = published_record(folder)
    truth, group = pd.factorize(metadata["unique_name"])[0], animals["group"]
    assert record["metrics"]["ari"] == pytest.approx(
        sklearn.metrics.adjusted_rand_score(truth, group)
    )
    assert record["metrics"]["ami"] == pytest.approx(
        sklearn.metrics.adjusted_mutual_info_score(truth, group)
    )
    words = json.loads((folder / "discovery.json").read_text())["words"]
    assert "and with local_top_k=256, local_size=512" in words[-1]
    counts = record["counts"]
    assert record["kind"] == "discover"
    assert (counts["photographs"], counts["groups"]) == (len(metadata), group.nunique())
    assert counts["visits"] == metadata.groupby(["source", "encounter"]).ngroups
    assert counts["animals_low"] <= counts["animals_high"]
    sizes = animals["group"].value_counts()
    assert sizes.sort_index().tolist() == sorted(sizes, reverse=True)
    people = pd.read_csv(folder / "animals.csv")
    assert dict(zip(people["photo"], people["animal"], strict=True)) == dict(
        zip(animals["image_id"], animals["group"], strict=True)
    )


def test_pairs_have_the_best_photographs_of_two_visits(found):
    _, folder = found
    pairs = pd.read_parquet(folder / "pairs.parquet")
    animals = pd.read_parquet(folder / "animals.parquet").set_index("image_id")
    for end in ("first", "second"):
        own = animals.loc[pairs[f"{end}_id"], "encounter"].tolist()
        assert own == pairs[f"{end}_encounter"].tolist()
    visits = pairs[["first_encounter", "second_encounter"]].apply(frozenset, axis=1)
    assert visits.is_unique
    assert (visits.map(len) == 2).all()
    by_score = pairs.sort_values("score")
    assert by_score["probability"].is_monotonic_increasing
    group = animals.groupby("encounter")["group"].first()
    together = group[pairs["first_encounter"]].to_numpy() == group[pairs["second_encounter"]]
    assert together.tolist() == pairs["together"].tolist()


def test_a_folder_without_names_is_grouped_by_what_named_animals_taught(found, unnamed, capsys):
    out, named = found
    words = [unnamed, f"output.root={out}", "output.run_id=card", "--json"]
    assert _discover(*words, "--calibration", named / "discovery.json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"] == {}
    assert "animals_low" in told["counts"]
    assert told["counts"]["probabilities_from"] == "discovery"
    used = json.loads((out / "discoveries" / "card" / "discovery.json").read_text())
    taught = json.loads((named / "discovery.json").read_text())["practice"]
    assert used["used"] == taught
    assert used["practice"] is None
    pairs, curve = pd.read_parquet(out / "discoveries" / "card" / "pairs.parquet"), taught["curve"]
    low, high = curve["knot_score"]
    slope, intercept = curve["coefficients"]
    odds = np.exp(slope * np.clip((pairs["score"] - low) / (high - low), 0, 1) + intercept)
    assert pairs["probability"].to_numpy() == pytest.approx(
        np.clip(odds / (1 + odds), *curve["knot_prob"]), abs=1e-3
    )


def test_a_gallery_brings_its_method_and_its_probabilities(found, few, unnamed):
    out, _ = found
    build = ["gallery", "build", str(few), "--out", str(out / "known"), *KEYS]
    method = ["benchmark.method=local_index", "dataset.encounter_cols=[source,encounter]"]
    open_set = ["benchmark.open_set.queries=12", "benchmark.open_set.group_nearest=5"]
    assert main([*build, "--quiet", *method, *open_set, f"output.root={out}"]) == 0
    words = ["discover", unnamed, "--gallery", out / "known", "output.run_id=by"]
    assert main([*map(str, words), "--quiet", f"output.root={out}", "ray.num_actors=0"]) == 0
    counts = published_record(out / "discoveries" / "by")["counts"]
    assert counts["probabilities_from"] == "gallery"
    assert counts["photographs"] == 16


def test_two_animals_of_a_photograph_are_two(side_by_side, tmp_path):
    assert _discover(side_by_side / "both", f"output.root={tmp_path}", "output.run_id=two") == 0
    animals = pd.read_parquet(tmp_path / "discoveries" / "two" / "animals.parquet")
    photo = animals["image_id"].str.rpartition("#")[0]
    assert (animals.groupby(photo)["group"].nunique() == 2).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a folder of photographs"),
        (["{empty}"], "no photograph in"),
        (["{one}"], "1 photograph to group, and it takes two"),
        (["{card}", "benchmark.method=cosine"], "no probabilities come with the install"),
        (["{card}", "benchmark.method=wildfusion"], "needs a fusion"),
        (["{card}", "--calibration", "{one}/a.json"], "neither discovery.json"),
        (
            ["{card}", "--calibration", "{named}/discovery.json", "benchmark.index_neighbours=5"],
            "measured with index_neighbours=3",
        ),
        (["{few}", "--masks", "m"], "for a folder of photographs"),
        (["{card}", "--gallery", "g", "--calibration", "c"], "leave --calibration"),
    ],
)
def test_errors_say_what_to_do(words, message, found, few, unnamed, tmp_path, capsys):
    places = {name: tmp_path / name for name in ("empty", "one")}
    for place in places.values():
        place.mkdir()
    shutil.copy(next(unnamed.rglob("*.jpg")), places["one"] / "a.jpg")
    (places["one"] / "a.json").write_text("{}")
    words = [word.format(card=unnamed, few=few, named=found[1], **places) for word in words]
    assert _discover(*words, f"output.root={tmp_path}") in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "discoveries").exists()


def test_an_unreadable_photograph_is_listed_and_a_table_is_told_of(unnamed, tmp_path, caplog):
    card = tmp_path / "card"
    card.mkdir()
    for number, photo in enumerate(sorted(unnamed.rglob("*.jpg"))[:3]):
        shutil.copy(photo, card / f"{number}.jpg")
    (card / "bad.jpg").write_bytes(b"no picture")
    (card / "sightings.csv").write_text("path,unique_name\n0.jpg,Zita\n")
    assert _discover(card, f"output.root={tmp_path}", "output.run_id=bad") == 0
    rejected = pd.read_csv(tmp_path / "discoveries" / "bad" / "rejected.csv")
    assert rejected["image_id"].tolist() == ["bad.jpg"]
    animals = pd.read_parquet(tmp_path / "discoveries" / "bad" / "animals.parquet")
    assert len(animals) == 3
    assert animals["identity"].isna().all()
    assert "sightings.csv: is not read" in caplog.text


def test_the_report_has_a_sheet_of_each_group_with_all_its_photographs(found, capsys):
    _, folder = found
    animals = pd.read_parquet(folder / "animals.parquet")
    assert main(["report", str(folder), "--quiet"]) == 0
    sheets = (folder / "report" / "sheets.html").read_text()
    parts = re.split(r'<section class="sheet" id="animal-(\d+)">', sheets)[1:]
    shown = {
        int(number): re.findall(r'<img src="([^"]+)" alt="([^"]+)"', part)
        for number, part in zip(parts[::2], parts[1::2], strict=True)
    }
    assert {number: sorted(name for _, name in photos) for number, photos in shown.items()} == {
        int(number): sorted(image_id.rpartition("/")[2] for image_id in rows)
        for number, rows in animals.groupby("group")["image_id"]
    }
    assert all((folder / "report" / file).is_file() for one in shown.values() for file, _ in one)
    record = published_record(folder)
    index = (folder / "report" / "index.html").read_text()
    groups = counted(record["counts"]["groups"], "group")
    assert f"<h1>{groups} of 16 photographs</h1>" in index
    assert f"{100 * record['metrics']['ari']:.1f}" in index
    assert main(["report", str(folder), "--compare", str(folder)]) == 1
    assert "a discovery has no --compare" in capsys.readouterr().err


def test_the_settings_are_those_of_the_command(tmp_path, capsys):
    assert main(["discover", str(tmp_path), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "method: local_index" in printed
    assert "local_top_k: 256" in printed
    fusion = tmp_path / "fusion.json"
    words = ["discover", str(tmp_path), "benchmark.method=wildfusion", "--calibration", str(fusion)]
    (tmp_path / "a.png").write_bytes(b"")
    assert main([*words, f"output.root={tmp_path}"]) == 1
    assert "it takes two" in capsys.readouterr().err
    assert discover._config(_parsed(words[1:])).benchmark.calibration.load == str(fusion)


def _parsed(words):
    parser = Parser("exreid discover", "")
    discover.DISCOVER.add_arguments(parser)
    return parser.parse_intermixed_args(words)
