"""What a researcher does with a probe and a training from Python."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import exreid
from exreid.api import watching
from exreid.config.io import load_config
from exreid.config.training import FinetuneConfig
from exreid.runs.finetune import run_finetune

MODEL = {"model.type": "timm:test_vit", "dataset.image_size": 64}


def _cosines(vectors_ND):
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND.astype(float), axis=1, keepdims=True)
    return unit_ND @ unit_ND.T


def test_a_probes_metrics_come_out_of_its_embeddings_again(dataset, tmp_path):
    keys = {"dataset.root": dataset, "dataset.image_size": 64}
    measured = exreid.probe(keys=keys)
    images = (
        exreid.load_images(keys=keys).set_index("image_id").loc[list(measured.embeddings.image_ids)]
    )
    assert measured.embeddings.vectors_ND.dtype == np.float32
    query_N = (images["split"] == "test").to_numpy()
    found = exreid.metrics.evaluate(
        _cosines(measured.embeddings.vectors_ND)[query_N][:, ~query_N],
        images["identity"][query_N],
        images["identity"][~query_N],
    )
    assert found.metrics == measured.result.metrics
    assert found.intervals == measured.result.intervals
    first = measured.rankings[measured.rankings["rank"] == 1]
    assert first["is_match"].mean() == measured.result.metrics["top_1"]
    index_QK, _ = exreid.rank(
        measured.embeddings.vectors_ND[query_N], measured.embeddings.vectors_ND[~query_N], keep=1
    )
    assert list(images.index[~query_N][index_QK[:, 0]]) == list(first["gallery_id"])
    assert f"{100 * measured.result.metrics['mAP']:.1f}%" in measured._repr_html_()


def test_a_training_is_the_commands_and_its_weights_are_used(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("exreid.runs.finetune._train_over_ray", None)  # one worker needs no Ray
    keys = {
        **MODEL,
        "dataset.root": dataset,
        "dataset.encounter_cols": ["source", "encounter"],
        "model.pretrained": False,
        "train.epochs": 1,
    }
    tuned = exreid.finetune(keys=keys, output_dir=tmp_path / "api")
    typed = [f"{key}={value}".replace("'", "") for key, value in keys.items()]
    typed += [f"output.root={tmp_path / 'command'}", "ray.num_workers=0"]
    _, result = run_finetune(load_config(FinetuneConfig, None, typed))
    assert tuned.result.metrics == result.metrics
    assert list(tuned.history["epoch"]) == [0, 1]
    assert tuned.history["val_mAP"].iloc[1] == tuned.result.metrics["mAP"]
    photo = sorted(dataset.rglob("*.jpg"))[0]
    trained = exreid.embed(photo, {**MODEL, "model.checkpoint": tuned.checkpoint})
    assert trained.shape == (1, 64)
    assert tuned.folder.is_relative_to(tmp_path / "api")
    assert "mAP_before" in tuned._repr_html_()


def test_a_gallery_shows_itself_in_a_notebook(few, tmp_path):
    keys = {"dataset.root": few, "dataset.image_size": 64}
    keys["dataset.encounter_cols"] = ["source", "encounter"]
    keys["benchmark.method"] = "cosine"
    gallery = exreid.Gallery.build(tmp_path / "g", keys=keys)
    assert len(gallery.animals) == 4
    assert f"16 photographs of 4 animals. {gallery.quality[:20]}" in gallery._repr_html_()


@pytest.mark.skipif(torch.cuda.is_available(), reason="GPUs are used through Ray")
def test_small_work_starts_no_ray(few):
    program = f"""
import sys, exreid
keys = {{"dataset.root": {str(few)!r}, "dataset.image_size": 64, "benchmark.local_size": 96,
        "benchmark.local_top_k": 16, "benchmark.method": "local_lightglue"}}
exreid.probe(keys=keys)
exreid.probe(keys={{**keys, "benchmark.method": "cosine"}})
exreid.embed({str(sorted(few.rglob("*.jpg"))[0])!r}, {{"dataset.image_size": 64}})
print("ray" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_a_notebook_has_one_line_a_stage(monkeypatch):
    shown = []

    class Line:
        def update(self, content, *, raw):
            shown[-1] = content["text/plain"]

    def display(content, *, raw, display_id):
        shown.append(content["text/plain"])
        return Line()

    shell = SimpleNamespace(kernel=object())
    notebook = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    progress = watching.progress_here()
    for stage in ("Embedding", "Matching"):
        count = progress(stage, 5000)
        for _ in range(5000):
            count(1)
    assert [line.rsplit(",", 1)[0] for line in shown] == [
        "Embedding: 5,000 of 5,000",
        "Matching: 5,000 of 5,000",
    ]
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert watching.progress_here() is watching.no_progress


@pytest.mark.parametrize("name", ["evaluate", "adjusted_rand_index", "bootstrap_intervals"])
def test_metrics_are_reached_from_the_package(name):
    program = f"import exreid; print(exreid.metrics.{name}.__doc__ is not None)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
