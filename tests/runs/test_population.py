"""exreid population of discoveries made by hand, whose animals and captures are known."""

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.records import Result
from exreid.review.decisions import Decision, append_decision
from exreid.storage.run_folder import RunFolder

VISITS = pd.DataFrame(
    [
        ("v0", 1, "A", "north", "2026-05-01 21:00:00", "left"),
        ("v1", 1, "A", "south", "2026-05-02 21:00:00", "left"),
        ("v2", 2, "A", "north", "2026-05-03 21:00:00", "left"),
        ("v3", 3, "B", "south", "2026-05-04 21:00:00", "right"),
        ("v4", 3, "B", "south", "2026-05-06 21:00:00", "right"),
        ("v5", 4, "C", "north", "2026-05-07 21:00:00", "left"),
    ],
    columns=["encounter", "group", "identity", "site", "date", "viewpoint"],
)
"""Two photographs each; animal A is in two groups. The first photograph of v5 is of the right."""
DEPLOYMENTS = """deploymentID,locationID,latitude,longitude,deploymentStart,deploymentEnd
d1,north,49.0,13.0,2026-05-01T00:00:00,2026-05-08T00:00:00
d2,south,49.1,13.0,2026-05-01T00:00:00,2026-05-08T00:00:00
d3,west,49.0,12.9,2026-05-01T00:00:00,2026-05-05T12:00:00
"""


def _discovery(folder, *, names=True, counts=None):
    photos = folder / "photos"
    photos.mkdir(parents=True)
    config = load_config(ProbeConfig, None, [f"dataset.root={photos}"])
    run = RunFolder(folder, "d", config, "cosine", results_table="d.csv", kind="discover")
    rows = VISITS.loc[VISITS.index.repeat(2)].reset_index(drop=True)
    rows["image_id"] = rows["path"] = [
        f"{visit}-{n % 2}.jpg" for n, visit in enumerate(rows["encounter"])
    ]
    rows.loc[rows["path"] == "v5-0.jpg", "viewpoint"] = "right"
    for path in rows["path"]:
        Image.new("RGB", (8, 8)).save(photos / path)
    frame = rows.drop(columns=["group", "identity"]).assign(
        root=str(photos), visit=rows["encounter"], identity=None, mask=None
    )
    frame.to_parquet(run.path / "photos.parquet")
    animals = rows[["image_id", "encounter", "group"]].assign(probability=0.9)
    animals["identity"] = rows["identity"] if names else None
    animals["identity"] = animals["identity"].astype("string")
    animals.to_parquet(run.path / "animals.parquet")
    group = dict(zip(VISITS["encounter"], VISITS["group"], strict=True))
    pairs = [
        (a, b, f"{a}-0.jpg", f"{b}-0.jpg", 0.9 if group[a] == group[b] else 0.05)
        for a, b in combinations(VISITS["encounter"], 2)
    ]
    columns = ["first_encounter", "second_encounter", "first_id", "second_id", "probability"]
    pd.DataFrame(pairs, columns=columns).to_parquet(run.path / "pairs.parquet")
    run.finish(Result("cosine", {}, {}, counts or {}, {}))
    return run.path


def _population(folder, *words):
    code = main(["population", "--quiet", str(folder), *map(str, words)])
    file = folder / "population" / "population.json"
    return code, json.loads(file.read_text()) if code == 0 and file.exists() else None


def test_the_groups_of_a_discovery_with_names(tmp_path, capsys):
    """Of A's three pairs of visits one is found, and B's one: 2 of 4. No wrong one is made."""
    folder = _discovery(tmp_path, counts={"animals_low": 2, "animals_high": 4})
    code, found = _population(folder)
    assert code == 0
    assert (found["animals"], found["interval"], found["captures"]) == (4, [2, 4], 6)
    assert found["false_negative_rate"]["value"] == pytest.approx(0.5)
    assert found["false_positive_rate"]["value"] == 0
    assert found["abundance_bias"]["value"] == pytest.approx(1.0)
    flanks = found["flanks"]  # groups 1 and 2 by the left, 3 by the right, 4 by both
    assert (flanks["left"], flanks["right"], flanks["both"]) == (2, 1, 1)
    assert (flanks["low"], flanks["high"]) == (3, 4)
    out = folder / "population"
    animals = pd.read_csv(out / "animals.csv")
    south = animals[animals["site"] == "south"].set_index("animal")
    assert south.loc["animal 3", ["captures", "photographs"]].tolist() == [2, 4]
    assert south.loc["animal 3", ["first", "last"]].tolist() == ["2026-05-04", "2026-05-06"]
    records = pd.read_csv(out / "record_table.csv")
    assert records["n_images"].tolist() == [2] * 6
    assert set(records["Individual"]) == {f"animal {n}" for n in range(1, 5)}
    assert not (out / "secr_traps.txt").exists()
    assert Image.open(out / "discovery_curve.png").size[0] > 1000
    text = capsys.readouterr().out
    assert "nobody has reviewed" in text
    assert "No files for secr: no latitude and longitude of north, south" in text


def test_an_interval_without_the_number_of_groups_is_told_instead_of_it(tmp_path, capsys):
    code, found = _population(_discovery(tmp_path, counts={"animals_low": 1, "animals_high": 3}))
    assert code == 0
    assert (found["animals"], found["named_animals"], found["interval"]) == (None, 4, [1, 3])
    assert "animals 1 to 3 95% interval; 4 groups" in " ".join(capsys.readouterr().out.split())


def test_deployments_give_the_effort(tmp_path, capsys):
    folder = _discovery(tmp_path / "run")
    file = tmp_path / "deployments.csv"
    file.write_text(DEPLOYMENTS)
    code, found = _population(folder, "--deployments", file, "--occasion-days", 7, "--json")
    assert code == 0
    assert json.loads(capsys.readouterr().out) == found
    traps = (folder / "population" / "secr_traps.txt").read_text().splitlines()[2:]
    assert [row.split()[0] for row in traps] == ["north", "south", "west"]
    assert [row.split()[3:] for row in traps] == [["7"], ["7"], ["4.5"]]
    captures = (folder / "population" / "secr_captures.txt").read_text().splitlines()[2:]
    assert sorted(captures) == sorted(
        ["1 animal-1 1 north", "1 animal-1 1 south", "1 animal-2 1 north"]
        + ["1 animal-3 1 south"] * 2
        + ["1 animal-4 1 north"]
    )
    assert _population(folder)[0] == 0
    assert not (folder / "population" / "secr_traps.txt").exists()


def test_without_names_or_a_review_nothing_is_measured(tmp_path, capsys):
    code, found = _population(_discovery(tmp_path, names=False))
    assert code == 0
    assert found["interval"] is found["false_negative_rate"] is found["abundance_bias"] is None
    assert "is not measured: there are no names" in capsys.readouterr().out


def _answer(folder, pair, verdict, number, *, audit=False):
    when = f"2026-06-01T10:00:{number:02d}+00:00"
    purpose, drawn = ("audit", 0.1) if audit else ("queue", None)
    row = Decision(*pair, verdict, "", "me", when, 1.0, 0.5, purpose, drawn)
    append_decision(folder / "decisions.csv", row)


def test_the_audit_of_a_review_gives_the_number_and_its_interval(tmp_path, capsys):
    """Nine audit pairs that agree with the groups: as many animals as groups, within an interval;
    *same* for v0 and v2, twice, joins A's groups."""
    folder = _discovery(tmp_path, names=False)
    photos = pd.read_parquet(folder / "photos.parquet")
    photos.assign(viewpoint="left").to_parquet(folder / "photos.parquet")
    for number in range(2):
        _answer(folder, ("v0", "v2"), "same", number)
    truth = dict(zip(VISITS["encounter"], VISITS["identity"], strict=True))
    pairs = list(combinations(VISITS["encounter"], 2))
    for number, (a, b) in enumerate(pairs[2:11], 2):
        _answer(folder, (a, b), "same" if truth[a] == truth[b] else "different", number, audit=True)
    code, found = _population(folder)
    assert code == 0
    assert found["animals"] == pytest.approx(3)
    assert found["named_animals"] == 3
    low, high = found["interval"]
    assert low <= 3 <= high
    assert high > low
    assert low == int(low)
    assert high == int(high)
    assert found["false_negative_rate"]["value"] == pytest.approx(0)
    text = capsys.readouterr().out
    assert "9 audit pairs" in text
    photos.assign(viewpoint=None).to_parquet(folder / "photos.parquet")
    assert _population(folder)[1]["interval"] == [low // 2, high]
    assert f"If all show one side, it is {low} to {high}." in capsys.readouterr().out
    captures = pd.read_csv(folder / "population" / "captures.csv")
    assert captures.groupby("animal")["encounter"].apply(set).isin([{"v0", "v1", "v2"}]).sum() == 1


def test_a_review_without_an_audit_has_no_interval(tmp_path, capsys):
    folder = _discovery(tmp_path, names=False)
    _answer(folder, ("v0", "v2"), "same", 0)
    code, found = _population(folder)
    assert code == 0
    assert found["interval"] is None
    assert "fewer than 5 of the review's questions" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--site", "nowhere"], "no column 'nowhere'"),
        (["--deployments", "DEPLOYMENTS"], "has all sites of the captures: south are in none"),
        (["--occasion-days", "0"], "--occasion-days: 1 or more"),
    ],
)
def test_what_does_not_fit_is_an_error(tmp_path, capsys, words, message):
    folder = _discovery(tmp_path / "run")
    file = tmp_path / "deployments.csv"
    file.write_text("\n".join(line for line in DEPLOYMENTS.splitlines() if "south" not in line))
    words = [str(file) if word == "DEPLOYMENTS" else word for word in words]
    assert _population(folder, *words)[0] in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


def test_captures_without_dates_have_no_curve_in_time(tmp_path):
    folder = _discovery(tmp_path)
    photos = pd.read_parquet(folder / "photos.parquet").assign(date=None)
    photos.to_parquet(folder / "photos.parquet")
    code, found = _population(folder)
    assert code == 0
    assert any("6 captures have no site or no date" in word for word in found["words"])
    curve = Image.open(folder / "population" / "discovery_curve.png")
    assert np.asarray(curve.convert("L")).min() < 200
