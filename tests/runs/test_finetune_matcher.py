"""`exreid finetune train.what=matcher`, and its checkpoint in probes and galleries."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from exreid.cli import main
from exreid.commands.finetune import probe_words
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.sweep import load_sweep
from exreid.config.training import FinetuneConfig
from exreid.errors import CheckpointError, ConfigError, MetadataError
from exreid.gallery.opening import open_gallery
from exreid.models.adapted import adapted_matcher
from exreid.pipeline.keypoints import adapted_for
from exreid.runs.finetune import run_finetune
from exreid.runs.gallery_build import build_gallery
from exreid.runs.probe import run_probe
from exreid.runs.tune import run_tune
from exreid.training.history import read_history

MATCHING = [
    *("benchmark.method=local_lightglue", "benchmark.local_top_k=32", "benchmark.local_size=96"),
    *("benchmark.candidate_k=3", "benchmark.shortlist=local"),
    *("dataset.encounter_cols=[source,encounter]", "safety=off"),
]
TRAINING = [
    *(*MATCHING, "train.what=matcher", "loss.type=pairs", "matcher.layers=1", "train.epochs=1"),
    *("train.batch_size=4", "ray.num_workers=0", "validation.fraction=0.3", "mine.drawn=1"),
    "output.best_metric=mAP_at_k",
]


def finetune(root, out, *more):
    overrides = [f"dataset.root={root}", f"output.root={out}", *TRAINING, *more]
    return run_finetune(load_config(FinetuneConfig, None, overrides))


def probe_config(root, out, *more):
    overrides = [f"dataset.root={root}", f"output.root={out}", *MATCHING, "ray.num_actors=0"]
    return load_config(ProbeConfig, None, [*overrides, *more])


def with_checkpoint(file):
    return f"benchmark.matcher_checkpoint={file}"


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("matcher")
    # So long a step moves every score.
    folder, result = finetune(dataset, out, "optimizer.lr=0.01", "scheduler.warmup_epochs=0")
    return out, folder, result


def test_a_run_leaves_its_pairs_its_history_and_says_what_was_chosen(trained, dataset):
    _, folder, result = trained
    mined = pq.read_table(folder / "mined-0.parquet").to_pandas()
    split = pd.read_csv(folder / "split.csv").set_index("image_id")
    assert split.loc[mined["anchor_id"], "trained_on"].all()
    assert split.loc[mined["image_id"], "trained_on"].all()
    metadata = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str).set_index("path")
    used = metadata.loc[split.index]
    assert (used["split-time_closed"] == "train").all(), "the test split is not touched"
    visit = metadata["source"] + metadata["encounter"]
    animal, other = (metadata["unique_name"].loc[mined[c]].array for c in ("anchor_id", "image_id"))
    assert ((animal == other) == (mined["kind"] == "own")).all()
    assert (visit.loc[mined["anchor_id"]].array != visit.loc[mined["image_id"]].array).all()
    assert mined["score"].isna().equals(mined["kind"] == "random")
    history = read_history(folder)
    best = max(history, key=lambda row: (row.metrics["mAP_at_k"], -row.epoch))
    assert result.counts["best_epoch"] == best.epoch
    assert result.metrics["mAP_at_k"] == best.metrics["mAP_at_k"]
    assert result.metrics["mAP_at_k_before"] == history[0].metrics["mAP_at_k"]
    assert "held out of the training split" in result.counts["best_epoch_chosen_on"]
    assert (folder / "learning_curve.png").is_file()


def test_a_probe_matches_with_the_trained_weights_and_never_mixes_known_pairs(
    trained, dataset, tmp_path
):
    out, folder, _ = trained

    def stores():
        return list((out / ".exreid_cache" / "pairs").iterdir())

    _, plain = run_probe(probe_config(dataset, out))
    before = stores()
    final = folder / "checkpoint-final.pth"
    words = probe_words(
        load_config(FinetuneConfig, folder / "config.snapshot.yaml", []), str(folder)
    )
    assert words[-1] == with_checkpoint(folder / "checkpoint-best.pth")
    assert "benchmark.local_top_k=32" in words
    _, moved = run_probe(probe_config(dataset, out, with_checkpoint(final)))
    assert len(stores()) == len(before) + 1, "no score of other weights is taken for one of these"
    assert moved.counts["pairs_matched"] == plain.counts["pairs_matched"]
    _, again = run_probe(probe_config(dataset, out, with_checkpoint(final)))
    known = again.counts["pairs_known"] - moved.counts["pairs_known"]
    assert known == again.counts["pairs_matched"], "and its own are known"
    assert again.metrics == moved.metrics
    # The validation of the last epoch, by a probe: the held-out images, against those trained on.
    split = pd.read_csv(folder / "split.csv")
    metadata = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str).merge(
        split, left_on="path", right_on="image_id"
    )
    metadata["part"] = metadata["query"].map({1: "q", 0: "g"})
    file = tmp_path / "validation.csv"
    metadata.to_csv(file, index=False)
    part = [
        *(f"dataset.metadata_file={file}", "dataset.split_col=part"),
        *("dataset.query_split_value=q", "dataset.database_split_value=g"),
    ]
    _, probed = run_probe(probe_config(dataset, out, with_checkpoint(final), *part))
    last = read_history(folder)[-1].metrics
    for name in ("top_1", "mAP_at_k", "balanced_top_1"):
        assert probed.metrics[name] == pytest.approx(last[name]), name


def test_a_gallery_carries_its_matcher(trained, dataset, tmp_path):
    out, folder, _ = trained
    checkpoint = tmp_path / "matcher.pth"
    shutil.copy(folder / "checkpoint-final.pth", checkpoint)
    more = (with_checkpoint(checkpoint), "benchmark.open_set.queries=10")
    config = probe_config(dataset, out, *more)
    expected = adapted_matcher(str(checkpoint), "aliked").fingerprint
    build_gallery(config, tmp_path / "g.gallery", split="train", thumbnail_px=0)
    checkpoint.unlink()
    moved = tmp_path / "sent.gallery"
    (tmp_path / "g.gallery").rename(moved)
    gallery = open_gallery(moved)
    own = gallery.config.benchmark.matcher_checkpoint
    assert own == str(moved / "matcher.safetensors")
    assert adapted_matcher(own, "aliked").fingerprint == expected
    manifest = json.loads((moved / "gallery.json").read_text())
    assert manifest["features"]["local-aliked-n16"]["matcher"]["weights"] == expected
    assert str(tmp_path) not in json.dumps(manifest["config"])
    photographs = dataset / "CzechLynx"
    arguments = ["--gallery", str(moved), str(photographs), f"output.root={tmp_path}"]
    assert main(["identify", *arguments, "ray.num_actors=0"]) == 0
    (moved / "matcher.safetensors").unlink()
    with pytest.raises(Exception, match=r"matcher\.safetensors: (is missing|cannot be read)"):
        open_gallery(moved)


def test_other_checkpoints_are_refused_by_name(trained, dataset, tmp_path):
    out, folder, _ = trained
    best = folder / "checkpoint-best.pth"

    def refused(error, match, *more):
        with pytest.raises(error, match=match):
            adapted_for(probe_config(dataset, out, *more))

    refused(
        ConfigError,
        r"trained for the local features aliked-n16, not for disk.*local_features=aliked-n16",
        *("benchmark.local_features=disk", with_checkpoint(best)),
    )
    missing = tmp_path / "none.pth"
    refused(
        CheckpointError, r"none\.pth: no such file.*matcher_checkpoint", with_checkpoint(missing)
    )
    backbone = tmp_path / "backbone.pth"
    torch.save({"conv.weight": torch.zeros(2)}, backbone)
    refused(
        CheckpointError, r"is no checkpoint of a matcher.*what=matcher", with_checkpoint(backbone)
    )
    torn = torch.load(best, weights_only=True)
    del torn["model"]["layers.8.cross_qk_v.weight"]
    torch.save(torn, backbone)
    refused(
        CheckpointError, r"backbone\.pth.*layers\.8\.cross_qk_v\.weight", with_checkpoint(backbone)
    )
    refused(ConfigError, "matches none", "benchmark.method=cosine", with_checkpoint(best))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("loss.type=arcface", "needs loss.type=pairs"),
        ("benchmark.precision=fast", "precision=exact"),
        ("dataset.encounter_cols=[]", "dataset.encounter_cols"),
        ("benchmark.local_features=aliked-t16", "no LightGlue is trained"),
        ("output.best_metric=mAP", "set mAP_at_k"),
        ("train.what=backbone output.best_metric=mAP", "needs train.what=matcher"),
    ],
)
def test_keys_that_do_not_go_together_are_told(dataset, tmp_path, more, told):
    with pytest.raises(ConfigError, match=told):
        finetune(dataset, tmp_path, *more.split())


def test_animals_of_one_encounter_each_give_nothing_to_learn_from(dataset, tmp_path):
    metadata = pd.read_csv(next(dataset.glob("*Real.csv")), dtype=str)
    metadata["encounter"] = metadata["unique_name"]
    file = tmp_path / "one.csv"
    metadata.to_csv(file, index=False)
    more = ["dataset.encounter_cols=[encounter]", "validation.source=identities"]
    with pytest.raises(MetadataError, match=r"another one of its animal in another encounter"):
        finetune(dataset, tmp_path, f"dataset.metadata_file={file}", *more)


def test_a_sweep_trains_matchers_and_its_test_is_a_probe_with_the_best_one(dataset, tmp_path):
    overrides = [f"dataset.root={dataset}", f"output.root={tmp_path}", *TRAINING]
    grid = "tune.space={matcher.rank: {grid: [2]}}"
    sweep = run_tune(load_sweep(None, [*overrides, "tune.search=grid", grid]))
    assert [trial.state for trial in sweep.trials] == ["completed"]
    best = sweep.folder / "trials" / "000" / "checkpoint-best.pth"
    tested = load_config(ProbeConfig, sweep.folder / "test" / "config.snapshot.yaml", [])
    assert tested.benchmark.matcher_checkpoint == str(best)
    _, probed = run_probe(probe_config(dataset, tmp_path, with_checkpoint(best)))
    for name, value in probed.metrics.items():
        assert sweep.result.metrics[f"test_{name}"] == value, name
