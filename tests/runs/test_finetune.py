"""A training as a user runs it: its files, its numbers again in a probe, its bad inputs."""

import csv
import json
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
import torch
from PIL import Image

from exreid.cli import job, main
from exreid.commands.finetune import probe_words
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.runs.finetune import run_finetune
from exreid.runs.probe import run_probe
from exreid.training import loop
from exreid.training.history import read_history
from tests.run_schema import published_record

LOCAL = ["ray.num_workers=0", "dataset.image_size=64", "dataset.encounter_cols=[source,encounter]"]
SMALL = ["model.type=timm:test_vit", "model.pretrained=false", "train.batch_size=8"]


def _arguments(dataset, out, *more):
    return [f"dataset.root={dataset}", f"output.root={out}", *LOCAL, *SMALL, *more]


def _run(*arguments):
    return run_finetune(load_config(FinetuneConfig, None, list(arguments)))


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """Validated on the test split, so that a probe can repeat the numbers."""
    out = tmp_path_factory.mktemp("out")
    more = ["validation.source=split", "train.epochs=3", "output.save_every=2"]
    more.append("train.ema_decay=0.5")
    folder, result = _run(*_arguments(dataset, out, *more, "output.run_id=first"))
    return out, folder, result


def test_a_training_leaves_its_files_and_they_agree(trained):
    out, folder, result = trained
    assert {file.name for file in folder.iterdir() if file.name != ".lock"} == {
        *("checkpoint-final.pth", "checkpoint-final-full.pth", "checkpoint-latest-full.pth"),
        *("checkpoint-best.pth", "checkpoint-best-full.pth", "checkpoint-epoch-2.pth"),
        *("checkpoint-final.safetensors", "config.snapshot.yaml", "history.csv"),
        *("learning_curve.png", "leaks.csv", "rejected.csv", "result.json", "split.csv"),
    }
    written = published_record(folder)
    assert (written["status"], written["metrics"]) == ("completed", result.metrics)
    assert written["counts"]["best_epoch_chosen_on"].startswith("the split 'test'")
    rows = read_history(folder)
    assert [row.epoch for row in rows] == [0, 1, 2, 3]
    best = max(rows[1:], key=lambda row: row.metrics["mAP"])
    assert result.metrics["mAP"] == best.metrics["mAP"]
    assert result.metrics["mAP_before"] == rows[0].metrics["mAP"]
    assert result.counts["best_epoch"] == best.epoch
    with (out / "results" / "train_metrics.csv").open() as stream:
        (line,) = csv.DictReader(stream)
    assert float(line["top_1"]) == result.metrics["top_1"]
    assert Image.open(folder / "learning_curve.png").size == (1200, 480)
    split = pd.read_csv(folder / "split.csv")
    assert split["trained_on"].sum() == result.counts["train_images"]
    assert not (split["trained_on"] & split["query"]).any()


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("checkpoint-best.pth", "best"),
        ("checkpoint-best-full.pth", "best"),
        ("checkpoint-epoch-2.pth", 2),
        ("checkpoint-final.pth", 3),
        ("checkpoint-latest-full.pth", 3),
        ("checkpoint-final-full.pth", 3),
        ("checkpoint-final.safetensors", 3),
    ],
)
def test_a_probe_of_each_checkpoint_gives_the_numbers_of_its_epoch(
    trained, dataset, tmp_path, name, epoch
):
    _, folder, result = trained
    epoch = result.counts["best_epoch"] if epoch == "best" else epoch
    row = next(row for row in read_history(folder) if row.epoch == epoch)
    overrides = [
        f"dataset.root={dataset}",
        f"output.root={tmp_path}",
        "dataset.image_size=64",
        "ray.num_actors=0",
        "model.type=timm:test_vit",
        f"model.checkpoint={folder / name}",
        "benchmark.bootstrap_resamples=0",
    ]
    _, probed = run_probe(load_config(ProbeConfig, None, overrides))
    for metric, value in probed.metrics.items():
        assert row.metrics[metric] == value, metric


@pytest.mark.parametrize(
    ("source", "mode", "exclude", "gallery_is_trained_on"),
    [
        ("encounters", "query_gallery", "encounter", True),
        ("encounters", "leave_one_out", "image", False),
        ("identities", "leave_one_out", "encounter", False),
    ],
)
def test_the_validation_part_comes_out_of_the_training_split(
    dataset, tmp_path, source, mode, exclude, gallery_is_trained_on
):
    arguments = _arguments(
        dataset,
        tmp_path,
        *(f"validation.source={source}", f"validation.mode={mode}", "train.epochs=1"),
        *("validation.fraction=0.4", f"validation.exclude={exclude}"),
    )
    folder, result = _run(*arguments)
    split = pd.read_csv(folder / "split.csv").merge(
        pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str), left_on="image_id", right_on="path"
    )
    assert (split["split-time_closed"] == "train").all(), "the test split is not touched"
    trained, queries = split[split["trained_on"] == 1], split[split["query"] == 1]
    assert len(trained)
    assert len(queries)
    assert set(trained["path"]).isdisjoint(queries["path"])
    visits = [set(part["source"] + part["encounter"]) for part in (trained, queries)]
    assert visits[0].isdisjoint(visits[1])
    assert set(trained["unique_name"]).isdisjoint(queries["unique_name"]) is (
        source == "identities"
    )
    gallery = split[split["gallery"] == 1]
    expected = trained if gallery_is_trained_on else queries
    assert set(gallery["path"]) == set(expected["path"])
    assert "held out of the training split" in result.counts["best_epoch_chosen_on"]


def test_a_killed_driver_goes_on_and_a_finished_run_is_left_alone(dataset, tmp_path, monkeypatch):
    arguments = _arguments(
        dataset, tmp_path, "train.epochs=3", "output.run_id=r", "train.deterministic=true"
    )
    whole, _ = _run(*_arguments(dataset, tmp_path / "whole", *arguments[-3:]))
    plain = loop.train_epoch

    def killed(training, state, *rest, **options):
        if state.epochs == 2:
            raise KeyboardInterrupt
        return plain(training, state, *rest, **options)

    monkeypatch.setattr(loop, "train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        _run(*arguments)
    monkeypatch.undo()
    folder = tmp_path / "results" / "r"
    assert published_record(folder)["status"] == "interrupted"
    assert main(["finetune", *arguments, "optimizer.lr=0.5"]) == 2, "another config"
    assert main(["finetune", *arguments]) == 0
    assert [row.epoch for row in read_history(folder)] == [0, 1, 2, 3]
    for key, value in torch.load(whole / "checkpoint-final.pth", weights_only=True).items():
        again = torch.load(folder / "checkpoint-final.pth", weights_only=True)[key]
        assert torch.equal(value, again), key
    assert main(["finetune", *arguments]) == 2, "completed"


KILLED = """
import os, signal, sys
from exreid.cli import main
from exreid.training import loop
check_weights = loop.check_weights
def dies_in_the_third_epoch(state):
    if state.epochs == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    check_weights(state)
loop.check_weights = dies_in_the_third_epoch
main(sys.argv[1:])
"""


def test_a_driver_that_is_killed_outright_leaves_a_run_that_goes_on(dataset, tmp_path):
    arguments = _arguments(
        dataset, tmp_path, "train.epochs=4", "output.run_id=r", "train.deterministic=true"
    )
    folder = tmp_path / "results" / "r"
    killed = subprocess.run([sys.executable, "-c", KILLED, "finetune", *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [row.epoch for row in read_history(folder)] == [0, 1, 2]
    assert json.loads((folder / "result.json").read_text())["status"] == "running"
    assert torch.get_num_threads() == 1, "as in the process that was killed: last bits depend on it"
    assert main(["finetune", *arguments]) == 0
    uncut = _arguments(dataset, tmp_path / "whole", *arguments[-3:])
    assert main(["finetune", *uncut]) == 0
    assert [row.epoch for row in read_history(folder)] == [0, 1, 2, 3, 4]
    runs = folder, tmp_path / "whole" / "results" / "r"
    ours, theirs = (torch.load(run / "checkpoint-final.pth", weights_only=True) for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_decoded_cache_spares_decoding_and_changes_no_number(dataset, tmp_path):
    arguments = _arguments(dataset, tmp_path, "train.epochs=1", "train.deterministic=true")
    _, first = _run(*arguments)
    _, again = _run(*arguments)
    _, off = _run(*arguments, "dataset.decoded_cache=off")
    assert (first.counts["images_cached"], again.counts["images_decoded"]) == (0, 0)
    assert again.counts["images_cached"] == first.counts["images_decoded"] > 0
    assert first.metrics == again.metrics == off.metrics
    _, other = _run(*arguments, "dataset.no_background=true")
    assert other.counts["images_cached"] == 0, "another preprocessing"


def test_an_unreadable_image_takes_its_class_with_it(dataset, tmp_path):
    frame = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    shutil.copytree(dataset, tmp_path / "data")
    lone = frame[frame["split-time_closed"] == "train"].iloc[0]
    same = frame["unique_name"] == lone["unique_name"]
    frame = frame[~same | (frame["path"] == lone["path"])]
    frame.to_csv(tmp_path / "data" / "metadata.csv", index=False)
    (tmp_path / "data" / lone["path"]).write_bytes(b"no photo")
    arguments = _arguments(
        tmp_path / "data", tmp_path, "dataset.metadata_file=metadata.csv", "train.epochs=1"
    )
    assert main(["finetune", *arguments]) == 1
    folder, result = _run(*arguments, "dataset.on_error=skip")
    assert pd.read_csv(folder / "rejected.csv")["path"].tolist() == [lone["path"]]
    labels = torch.load(folder / "checkpoint-final-full.pth", weights_only=True)["labels"]
    assert labels == sorted(set(frame["unique_name"]) - {lone["unique_name"]})
    assert result.counts["train_identities"] == 5


def test_background_replacement_keeps_the_mask_beside_the_image(dataset, tmp_path):
    _, result = _run(*_arguments(dataset, tmp_path, "augment.background=0.5", "train.epochs=1"))
    assert result.counts["epochs"] == 1


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["train.batch_sise=3"], 2, "train.batch_size"),
        (["loss.type=arcfase"], 2, "arcface"),
        (["validation.mode=query_gallery", "validation.source=identities"], 2, "leave_one_out"),
        (["train.amp=fp16"], 2, "bf16"),
        (["train.batch_norm=sync"], 2, "local or frozen"),
        (["train.resume_checkpoint=/nowhere.pth"], 2, "/nowhere.pth"),
        (["validation.source=split", "dataset.val_split_value=train"], 1, "training uses"),
        (["dataset.train_split_value=trian"], 1, "the splits are"),
        (["dataset.make_split=identity_disjoint", "validation.source=split"], 1, "leave_one_out"),
    ],
)
def test_mistakes_say_what_to_do(dataset, tmp_path, capsys, overrides, code, message):
    assert main(["finetune", *_arguments(dataset, tmp_path, *overrides)]) == code
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_one_identity_is_too_few(dataset, tmp_path, capsys):
    frame = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    frame[frame["unique_name"] == frame["unique_name"].iloc[0]].to_csv(
        dataset / "one.csv", index=False
    )
    arguments = _arguments(dataset, tmp_path, "dataset.metadata_file=one.csv")
    assert main(["finetune", *arguments]) == 1
    assert "needs two" in capsys.readouterr().err.replace("\n", " ")


def test_the_printed_probe_is_of_the_same_data(tmp_path):
    said = [f"dataset.root={tmp_path}/a b", "dataset.label_col=007", "model.type=timm:test_vit"]
    said += ["dataset.encounter_cols=[source,encounter]", f"output.root={tmp_path}/out"]
    training = load_config(FinetuneConfig, None, [*said, "train.epochs=1", "loss.scale=8"])
    words = probe_words(training, "results/r")
    wanted = [*said, "model.checkpoint=results/r/checkpoint-best.pth"]
    assert load_config(ProbeConfig, None, words) == load_config(ProbeConfig, None, wanted)


def test_each_epoch_is_told(dataset, tmp_path, caplog):
    caplog.set_level("INFO", logger="exreid.watch")
    folder, _ = _run(*_arguments(dataset, tmp_path, "train.epochs=2"))
    told = [text for text in caplog.messages if "images/s" in text or text.startswith("Before")]
    rows = read_history(folder)
    assert [text.partition(":")[0] for text in told] == [
        *("Before training", "Epoch 1 of 2", "Epoch 2 of 2"),
    ]
    assert f"loss {rows[2].training.loss:.3f}" in told[2]
    assert f"mAP {100 * rows[2].metrics['mAP']:.1f}%" in told[2]


def test_the_printed_config_and_help(capsys):
    assert job("finetune", ["--print-config", "loss.sub_centers=3"]) == 0
    assert "sub_centers: 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["finetune", "--help-keys"])
    assert "optimizer.layer_decay" in capsys.readouterr().out


def test_wandb_offline_logs_each_epoch_and_its_failure_costs_nothing(
    dataset, tmp_path, monkeypatch
):
    import wandb

    arguments = _arguments(
        dataset, tmp_path, "train.epochs=2", "wandb.enabled=true", "wandb.mode=offline"
    )
    folder, _ = _run(*arguments)
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    logged = []

    class Broken:
        def log(self, row, step):
            logged.append(step)
            raise ConnectionError("no network")

    monkeypatch.setattr(wandb, "init", lambda **unused: Broken())
    folder, _ = _run(*arguments)
    assert logged == [0], "after its first failure it is left alone"
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"


def test_progress_that_cannot_be_shown_is_said_and_costs_nothing(
    dataset, tmp_path, monkeypatch, caplog
):
    from exreid.runs import finetune

    def broken(folder):
        raise ValueError("half a line")

    monkeypatch.setattr(finetune.ProgressFile, "read", broken)
    monkeypatch.setattr(finetune, "WATCH_EVERY_S", 0.05)
    _, result = _run(*_arguments(dataset, tmp_path, "train.epochs=1"))
    assert result.counts["epochs"] == 1
    assert "no longer shown or logged (ValueError: half a line)" in caplog.text
