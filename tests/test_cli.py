"""How a command ends: in one line, with the code and the advice that fit what happened."""

import contextlib
import errno
import json
import os
import re
import shlex

import fsspec
import pytest

from exreid.cli import main
from exreid.data import synthetic as drawing
from exreid.data.synthetic import write_dataset
from exreid.runs import gallery_build

SMALL = ["dataset.image_size=64", "ray.num_actors=0", "benchmark.bootstrap_resamples=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "data"
    write_dataset(folder, identities=3, images_per_identity=4, seed=2, workers=1)
    return folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_storage_that_fails_outside_a_run_is_one_line(number, monkeypatch, tmp_path, capsys):
    def fails(*unused, **too):
        raise OSError(number, os.strerror(number), str(tmp_path / "out" / "a.jpg"))

    monkeypatch.setattr(drawing, "write_dataset", fails)
    arguments = ["--out", str(tmp_path / "out"), "--identities", "2", "--images-per-identity", "2"]
    assert main(["synth", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/out/a.jpg (--out): " in line


def test_every_command_names_the_path_that_it_cannot_write(data, tmp_path, capsys):
    run = tmp_path / "runs" / "benchmark_runs"
    probe = ["probe", f"dataset.root={data}", f"output.root={tmp_path / 'runs'}", *SMALL]
    for name in ("a", "b"):
        assert main([*probe, f"output.run_id={name}"]) == 0
    file = tmp_path / "file"
    file.write_text("")
    there = str(file / "x")
    commands = {
        "--out": [
            ["extract", *probe[1:], "--out", f"{there}.parquet"],
            [
                *("gallery", "build", *probe[1:], "--out", there),
                *("benchmark.method=cosine", "benchmark.open_set.enabled=false"),
            ],
            ["synth", "--out", there, "--identities", "2", "--images-per-identity", "2"],
            ["report", str(run / "a"), "--out", there],
            ["compare", str(run / "a"), str(run / "b"), "--out", there],
        ],
        "output.root": [
            [*probe[:2], f"output.root={there}", *SMALL],
            ["finetune", f"dataset.root={data}", f"output.root={there}", "ray.num_workers=0"],
        ],
    }
    capsys.readouterr()
    for role, several in commands.items():
        for command in several:
            assert main([*command, "--quiet"]) == 1, command
            (line,) = capsys.readouterr().err.splitlines()
            assert f"({role})" in line, command
            assert str(file) in line


def test_a_mistake_of_the_user_is_not_gone_on_from(data, tmp_path, capsys):
    bad = ["probe", f"dataset.root={data}", f"output.root={tmp_path}", *SMALL]
    for number, (wrong, code) in enumerate(
        (
            ("dataset.query_split_value=none_such", 1),
            ("dataset.root=/none/such", 1),
            ("model.checkpoint=/none/such.pth", 1),
            ("benchmark.method=cosin", 2),
        )
    ):
        assert main([*bad, wrong, f"output.run_id=r{number}"]) == code
        said = capsys.readouterr().err
        assert "exreid: " in said
        assert "go on from there" not in said, wrong
    written = json.loads((tmp_path / "benchmark_runs" / "r0" / "result.json").read_text())
    assert written["status"] == "failed"


@pytest.mark.parametrize(
    "wrong",
    ["dataset.root=/none/such", "dataset.label_col=nam", "model.checkpoint=/none/such.pth"],
)
@pytest.mark.parametrize("command", ["probe", "finetune"])
def test_a_wrong_path_or_name_leaves_no_run_folder(data, tmp_path, capsys, command, wrong):
    assert main([command, f"dataset.root={data}", f"output.root={tmp_path}", wrong]) == 1
    assert "exreid: " in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
    assert not [folder for folder in tmp_path.iterdir() if not folder.name.startswith(".")]


SYNTH = ["--identities", "2", "--images-per-identity", "2"]


@pytest.mark.parametrize(
    "words",
    [
        ["synth", "--out", "s3://bucket/data", *SYNTH],
        ["demo", "--out", "gs://bucket/demo"],
        ["gallery", "build", "--out", "s3://bucket/lynx.gallery"],
        ["gallery", "add", "s3://bucket/lynx.gallery", "dataset.root=data"],
        ["gallery", "info", "memory://lynx.gallery"],
        ["identify", "photos", "--gallery", "s3://bucket/lynx.gallery"],
        ["identify", "photos", "--gallery", "here", "--csv", "s3://bucket/answers.csv"],
        ["identify", "s3://bucket/photos", "--gallery", "here"],
        ["probe", "--config", "https://example.org/probe.yaml"],
        ["extract", "--out", "s3://embeddings.parquet"],
        ["extract", "--out", "s3://bucket/"],
    ],
)
def test_a_url_is_refused_where_only_this_disk_is_used(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(SystemExit):
        assert main(words) == 2
    said = capsys.readouterr().err
    assert "is a URL, and this takes a path on this machine" in said or "names no file" in said
    assert list(tmp_path.iterdir()) == [], "no folder called s3:"


def test_embeddings_go_to_a_url(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EXREID_MIRRORS", str(tmp_path / "mirrors"))
    words = ["extract", f"dataset.root={data}", f"output.root={tmp_path}", "ray.num_actors=0"]
    words += ["dataset.image_size=64", "--out"]
    assert main([*words, str(tmp_path / "here.parquet")]) == 0
    assert main([*words, "memory://bucket/deep/there.parquet"]) == 0
    assert "memory://bucket/deep/there.parquet: " in capsys.readouterr().out
    memory = fsspec.filesystem("memory")
    assert memory.cat("/bucket/deep/there.parquet") == (tmp_path / "here.parquet").read_bytes()
    assert memory.cat("/bucket/deep/there.rejected.csv").startswith(b"image_id,")
    memory.rm("/bucket", recursive=True)


def test_what_several_runs_read_of_one_table_is_said_once(data, tmp_path, capsys):
    table = (data / "CzechLynxDataset-Metadata-Real.csv").read_text()
    (data / "spaced.csv").write_text(table.replace(",lynx_0000,", ",lynx_0000 ,"))
    words = [f"dataset.root={data}", "dataset.metadata_file=spaced.csv", *SMALL[1:]]
    words += ["tune.run=probe", "tune.space={dataset.image_size: {choice: [32, 48]}}"]
    words += ["tune.test=false", "validation.fraction=0.5", f"output.root={tmp_path}"]
    assert main(["tune", *words, "tune.num_samples=2"]) == 0
    err = capsys.readouterr().err
    assert err.count("cells read without the white space around them") == 2, err
    assert err.index("Warning:") < err.index("Warning:\n"), "when it arose, and under the result"


def test_an_interrupted_gallery_goes_on_by_the_command_that_is_printed(
    data, tmp_path, monkeypatch, capsys
):
    build = [
        *("gallery", "build", str(data), "--out", str(tmp_path / "my gallery")),
        "benchmark.method=cosine",
        *(f"output.root={tmp_path}", "benchmark.open_set.enabled=false", *SMALL),
    ]

    def interrupted(*unused, **too):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(gallery_build, "_fit", interrupted)
        assert main(build) == 1
    (line,) = (
        line for line in capsys.readouterr().err.splitlines() if line.startswith("  exreid ")
    )
    assert main(shlex.split(line)[1:]) == 0
    assert "12 photographs added" in (out := capsys.readouterr().out)
    assert "; 0 features made" in out, "those of the first run are taken"


def test_tables_say_nothing_twice_and_no_long_numbers(data, tmp_path, capsys):
    assert main(["probe", str(data), f"output.root={tmp_path}", *SMALL]) == 0
    out = capsys.readouterr().out
    (file,) = tmp_path.glob("benchmark_runs/*/result.json")
    result = json.loads(file.read_text())
    assert result["counts"]["queries_without_positive"] == 0
    assert "mAP_with_positive" in result["metrics"]
    assert "with_positive" not in out
    assert "before" not in out  # no column without a value
    assert not re.search(r"\d\.\d{6}", out)
