"""Another package's backbone, extractor, loss and metric are used by their names."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import exreid
from exreid import plugins
from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.config.training import FinetuneConfig
from exreid.errors import ConfigError, GalleryError
from exreid.features.local import LocalExtractor
from exreid.models.backbones import build_backbone
from exreid.training.model import build_head

EXAMPLE = Path(__file__).parent.parent / "examples" / "exreid-plugin"


def _install(folder, name, version, groups, module=""):
    """What pip leaves of a package, in a folder that is then on sys.path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    if module:
        (folder / f"{name.replace('-', '_')}.py").write_text(module)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of this text, for as long as the test runs."""

    def install(name="other", version="1.0", *, module="", **groups):
        folder = tmp_path / f"{name}-{version}"
        named = {f"exreid.{group}": entries for group, entries in groups.items()}
        _install(folder, name, version, named, module)
        monkeypatch.syspath_prepend(str(folder))
        sys.modules.pop(name, None)

    yield install
    for name in ("other", "another"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example package, installed as its pyproject says."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    _install(folder, project["name"], project["version"], project["entry-points"])
    shutil.copy(EXAMPLE / "exreid_plugin.py", folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("exreid_plugin", None)


def _keys(few, **more):
    return {
        "dataset.root": few,
        "dataset.image_size": 64,
        "benchmark.bootstrap_resamples": 0,
        "ray.num_actors": 0,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def test_a_backbone_and_a_metric_of_another_package_are_measured(few, example, tmp_path):
    keys = _keys(few, model__type="tiny-conv", benchmark__metrics=["reciprocal_rank"])
    keys["benchmark.bootstrap_resamples"] = 50
    measured = exreid.probe(keys=keys, output_dir=tmp_path, cache=tmp_path / "cache")
    assert measured.embeddings.vectors_ND.shape[1] == 64
    rankings = measured.rankings[measured.rankings["is_match"]]
    first = rankings.groupby("query_id")["rank"].min()
    queries = pd.read_parquet(measured.folder / "queries.parquet")
    assert set(first.index) <= set(queries["query_id"])
    found = measured.result.metrics["reciprocal_rank"]
    assert found == pytest.approx(np.mean(1 / first))
    low, high = measured.result.intervals["reciprocal_rank"]
    assert low <= found <= high
    written = (measured.folder / "result.json").read_text()
    assert '"exreid-plugin": "0.1.0"' in written
    assert main(["metrics", str(measured.folder)]) == 0


def test_a_cache_is_another_one_for_another_version(few, example, package, tmp_path):
    def folders():
        return {folder.name for folder in (tmp_path / "cache" / "embeddings").iterdir()}

    keys = _keys(few, model__type="tiny-conv")
    exreid.probe(keys=keys, cache=tmp_path / "cache")
    before = folders()
    package("exreid-plugin", "0.2.0", backbones={"tiny-conv": "exreid_plugin:tiny_conv"})
    exreid.probe(keys=keys, cache=tmp_path / "cache")
    assert len(before) == 1
    assert len(folders() - before) == 1


def test_a_gallery_knows_the_version_that_made_it(few, example, package, tmp_path):
    keys = _keys(few, model__type="tiny-conv", benchmark__open_set__queries=10)
    keys["dataset.encounter_cols"] = ["source", "encounter"]
    gallery = exreid.Gallery.build(tmp_path / "g", keys=keys)
    photo = np.zeros((80, 90, 3), np.uint8)
    photo[20:60, 30:70] = 255
    assert list(gallery.identify(photo)["status"]) == ["answered"]
    package("exreid-plugin", "0.2.0", backbones={"tiny-conv": "exreid_plugin:tiny_conv"})
    with pytest.raises(GalleryError, match=r"package: 'exreid-plugin 0\.1\.0' .* 0\.2\.0"):
        exreid.Gallery.open(tmp_path / "g").identify(photo)


def test_keypoints_of_another_package_are_matched(few, example):
    keys = _keys(few, benchmark__method="local_lightglue", benchmark__local_size=128)
    keys |= {"benchmark.local_top_k": 32, "benchmark.local_features": "aliked-spread"}
    assert 0 <= exreid.probe(keys=keys).result.metrics["top_1"] <= 1
    (spread,) = exreid.local_features(sorted(few.rglob("*.jpg"))[0], keys_of_images(keys))
    plain_keys = {**keys_of_images(keys), "benchmark.local_features": "aliked-n16"}
    (plain,) = exreid.local_features(sorted(few.rglob("*.jpg"))[0], plain_keys)

    def fullest_cell(found):
        cells = (found.keypoints_K2 / found.image_wh_px * 4).astype(int).clip(0, 3)
        return np.unique(cells, axis=0, return_counts=True)[1].max()

    assert len(spread) == len(plain) == 32
    assert fullest_cell(spread) < fullest_cell(plain)
    assert (np.diff(spread.scores_K) <= 0).all()
    described = LocalExtractor("aliked-spread", keypoints=8).describe()
    assert described["package"] == "exreid-plugin 0.1.0"


def keys_of_images(keys):
    return {key: value for key, value in keys.items() if key.startswith("benchmark.local_")}


def test_a_loss_of_another_package_trains(dataset, example, tmp_path):
    keys = {
        "dataset.root": dataset,
        "dataset.image_size": 64,
        "dataset.encounter_cols": ["source", "encounter"],
        "model.type": "tiny-conv",
        "train.epochs": 4,
        "optimizer.lr": 0.0002,
        "loss.type": "norm-softmax",
        "loss.scale": 16.0,
    }
    tuned = exreid.finetune(keys=keys, output_dir=tmp_path)
    losses = tuned.history["loss"].dropna()
    assert losses.iloc[-1] < losses.iloc[0]
    used = {"model.type": "tiny-conv", "dataset.image_size": 64}
    photo = sorted(dataset.rglob("*.jpg"))[0]
    assert not np.array_equal(
        exreid.embed(photo, {**used, "model.checkpoint": tuned.checkpoint}),
        exreid.embed(photo, used),
    )


def test_the_example_loss_is_plain_cross_entropy_of_cosines(example):
    config = load_config(FinetuneConfig, None, ["loss.type=norm-softmax", "loss.scale=2"]).loss
    head = build_head(config, embedding_length=3, classes=2)
    head.weight.data = torch.tensor([[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    loss_B = head(torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([0]))
    assert loss_B.item() == pytest.approx(np.log(1 + np.exp(-2.0)))


@pytest.mark.slow
@pytest.mark.ray
def test_actors_find_what_this_process_finds(few, example, tmp_path):
    keys = _keys(few, model__type="tiny-conv", benchmark__method="wildfusion")
    keys |= {"benchmark.candidate_k": 2, "benchmark.local_features": "aliked-spread"}
    keys |= {"benchmark.local_size": 96, "benchmark.local_top_k": 16}
    keys |= {"benchmark.calibration.pairs": 20}
    here = exreid.probe(keys=keys)
    keys |= {"ray.num_actors": 1, "output.root": tmp_path}
    typed = [f"{key}={value}" for key, value in keys.items()]
    path = os.pathsep.join([str(example), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    command = [sys.executable, "-m", "exreid.cli", "probe", *typed]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.rglob("rankings.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(file), here.rankings, check_exact=True)


@pytest.mark.parametrize(
    ("key", "group", "own"),
    [
        ("model.type", "backbones", "efficientnet-lite0"),
        ("benchmark.local_features", "extractors", "sift"),
        ("loss.type", "losses", "arcface"),
    ],
)
def test_a_name_of_exreids_own_is_refused(key, group, own, package):
    package("other", "1.0", **{group: {own: "other:thing"}})
    with pytest.raises(ConfigError, match=rf"'{own}' is exreid's own, and other 1\.0.*{group}"):
        _build(key, own)


@pytest.mark.parametrize(
    ("key", "group"),
    [
        ("model.type", "backbones"),
        ("benchmark.local_features", "extractors"),
        ("loss.type", "losses"),
    ],
)
def test_a_package_that_fails_is_named(key, group, package):
    package("other", "1.0", module="def thing(**given):\n    return 3\n")
    package("another", "2.0", **{group: {"broken": "missing_module:thing"}})
    with pytest.raises(
        ConfigError, match=rf"'broken' of another 2\.0 \(entry point exreid\.{group}, .*missing_"
    ):
        _build(key, "broken")


def test_a_thing_of_the_wrong_kind_is_named(package):
    package(module="def thing(**given):\n    return 3\n", losses={"three": "other:thing"})
    with pytest.raises(ConfigError, match=r"'three' of other 1\.0 .*returned int, and Module"):
        _build("loss.type", "three")


def test_two_packages_with_one_name_are_refused(package):
    package("other", "1.0", losses={"same": "other:thing"})
    package("another", "2.0", losses={"same": "another:thing"})
    with pytest.raises(ConfigError, match=r"registered by another 2\.0 and by other 1\.0"):
        _build("loss.type", "same")
    assert "same" in plugins.plugin_names("exreid.losses")


def _build(key, name):
    if key == "model.type":
        return build_backbone(name)
    if key == "loss.type":
        config = load_config(FinetuneConfig, None, [f"loss.type={name}"]).loss
        return build_head(config, embedding_length=2, classes=2)
    config = load_config(ProbeConfig, None, [f"{key}={name}"])
    return LocalExtractor(config.benchmark.local_features, keypoints=4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("benchmark.local_features=aliked", r"'disk'.*exreid\.extractors.*Did you mean"),
        ("benchmark.metrics=[mrr]", r"exreid\.metrics"),
        ("benchmark.metrics=[top_3]", "exreid's own metrics"),
        ("benchmark.fusion.local_features=[disc]", r"Did you mean 'disk'"),
    ],
)
def test_an_unknown_name_says_where_names_come_from(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(ProbeConfig, None, [override])
    with pytest.raises(ConfigError, match=r"no backbone 'nothing'.*exreid\.backbones"):
        build_backbone("nothing")


def test_a_metric_of_the_wrong_shape_is_named(few, package):
    module = "import numpy as np\ndef one(ranking):\n    return np.zeros(1)\n"
    package(module=module, metrics={"one": "other:one"})
    with pytest.raises(ConfigError, match=r"'one' of other 1\.0 .*float64 of shape \(1,\)"):
        exreid.probe(keys=_keys(few, benchmark__metrics=["one"]))
