"""Galleries: built, added to, moved, and refused where they cannot be trusted."""

import json
import shutil
import socket

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import save_file

from exreid.cli import main
from exreid.config.dataset import DatasetConfig
from exreid.config.io import load_config, with_overrides
from exreid.config.methods import ModelConfig
from exreid.config.probe import ProbeConfig, gallery_config
from exreid.data.synthetic import write_dataset
from exreid.errors import CacheError, ConfigError, GalleryError, MetadataError
from exreid.features.keys import image_key
from exreid.features.local import LocalExtractor
from exreid.features.local_extraction import as_record
from exreid.gallery import opening as opening_module
from exreid.gallery.fitted_json import decider_from_json, decider_to_json
from exreid.gallery.folder import StoredGallery
from exreid.gallery.opening import open_gallery
from exreid.gallery.photo_table import PhotoOptions
from exreid.gallery.swap import new_folder
from exreid.gallery.write import write_checksums
from exreid.models.backbones import build_backbone
from exreid.openset.decide import Decider
from exreid.pipeline.embed import embedding_description, embedding_folder
from exreid.records import TABLE_COLUMNS, ImageTable
from exreid.runs import gallery_build
from exreid.runs.gallery_build import build_gallery
from exreid.runs.gallery_change import ADD_KEYS, add_to_gallery
from exreid.runs.identify import run_identify
from exreid.storage.array_store import write_part
from exreid.storage.files import SEALED

SMALL = [
    *("dataset.image_size=96", "ray.num_actors=0", "benchmark.open_set.queries=60"),
    *("dataset.encounter_cols=[source,encounter]", "dataset.split_col=split-time_open"),
]
LOCAL = [
    *("benchmark.method=wildfusion", "benchmark.candidate_k=2", "benchmark.local_top_k=32"),
    *("benchmark.local_size=96", "benchmark.calibration.pairs=40"),
    *("benchmark.calibration.exclude=image", "benchmark.open_set.queries=16"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "data"
    write_dataset(folder, identities=8, images_per_identity=8, seed=5, workers=2)
    return folder


@pytest.fixture(scope="module")
def metadata(data):
    return pd.read_csv(next(data.glob("*Real.csv")), dtype=str)


def _config(data, out, *more):
    overrides = [f"dataset.root={data}", f"output.root={out}", *SMALL, *more]
    return gallery_config(None, ["benchmark.method=cosine", *overrides])


def _add(gallery, data, out, file):
    overrides = [f"dataset.root={data}", f"dataset.metadata_file={file}", f"output.root={out}"]
    overrides.append("ray.num_actors=0")
    return add_to_gallery(gallery, with_overrides(gallery.config, overrides, ADD_KEYS))


def _ask(gallery, photos, out):
    config = with_overrides(gallery.config, [f"output.root={out}"], ("output.",))
    config = config.model_copy(update={"ray": config.ray.model_copy(update={"num_actors": 0})})
    folder, _ = run_identify(photos, gallery, config, PhotoOptions())
    files = [folder / f"{name}.parquet" for name in ("rankings", "open_set", "answers")]
    return {file.stem: pd.read_parquet(file) for file in files if file.exists()}


@pytest.fixture(scope="module")
def halves(metadata, tmp_path_factory):
    """The table of the train split; its first part and the rest, as files."""
    folder = tmp_path_factory.mktemp("halves")
    train = metadata[metadata["split-time_open"] == "train"]
    parts = {"all": train, "first": train.iloc[:-6], "rest": train.iloc[-8:]}
    for name, rows in parts.items():
        rows.to_csv(folder / f"{name}.csv", index=False)
    return {name: folder / f"{name}.csv" for name in parts}, train


@pytest.fixture(scope="module")
def photos(data, metadata):
    return [data / path for path in metadata[metadata["split-time_open"] == "test"]["path"]][:5]


@pytest.fixture(scope="module")
def cosine(data, halves, tmp_path_factory):
    out = tmp_path_factory.mktemp("cosine")
    config = _config(data, out, f"dataset.metadata_file={halves[0]['all']}")
    return build_gallery(config, out / "gallery").gallery


def test_adding_extracts_and_matches_only_what_is_new(data, halves, photos, tmp_path):
    files, train = halves
    whole = build_gallery(
        _config(data, tmp_path / "one", *LOCAL, f"dataset.metadata_file={files['all']}"),
        tmp_path / "whole",
    )
    first = build_gallery(
        _config(data, tmp_path / "two", *LOCAL, f"dataset.metadata_file={files['first']}"),
        tmp_path / "grown",
    )
    assert (first.added, first.already) == (len(train) - 6, 0)
    assert first.extracted == 2 * first.added
    # On another machine: no cache, and the photographs of the first part are not there.
    shutil.copytree(tmp_path / "grown", tmp_path / "there" / "grown")
    there = tmp_path / "data"
    for path in train["path"].iloc[-8:]:
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / path, there / path)
    grown = _add(open_gallery(tmp_path / "there/grown"), there, tmp_path / "three", files["rest"])
    assert (grown.added, grown.already, grown.extracted) == (6, 2, 12)
    assert 0 < grown.pairs_matched < whole.pairs_matched
    assert grown.gallery.fingerprint == whole.gallery.fingerprint
    assert [one["photographs"] for one in grown.gallery.manifest["history"]] == [
        *(len(train) - 6, len(train))
    ]
    asked = [_ask(one.gallery, photos, tmp_path / "ask") for one in (whole, grown)]
    for name, rows in asked[0].items():
        pd.testing.assert_frame_equal(rows, asked[1][name])
    again = _add(grown.gallery, there, tmp_path / "three", files["rest"])
    assert (again.added, again.already, again.extracted) == (0, 8, 0)


def test_building_again_extracts_only_what_is_new(data, halves, cosine, tmp_path):
    files, train = halves
    config = _config(data, tmp_path, f"dataset.metadata_file={files['first']}")
    build_gallery(config, tmp_path / "gallery")
    config = _config(data, tmp_path, f"dataset.metadata_file={files['all']}")
    again = build_gallery(config, tmp_path / "gallery")
    assert (len(again.gallery), again.extracted) == (len(train), 6)
    assert again.gallery.fingerprint == cosine.fingerprint


def test_a_gallery_can_be_moved_away_from_its_photographs(data, cosine, photos, tmp_path):
    expected = _ask(cosine, photos, tmp_path / "here")
    moved = tmp_path / "elsewhere" / "animals"
    shutil.copytree(cosine.folder, moved)
    gallery = open_gallery(moved)
    found = _ask(gallery, photos, tmp_path / "there")
    for name, rows in expected.items():
        pd.testing.assert_frame_equal(rows, found[name])
    manifest = (moved / "gallery.json").read_text()
    assert str(data) not in manifest
    assert str(cosine.folder.parent) not in manifest
    rows = gallery.table.rows
    for place in (0, len(gallery) - 1):
        with Image.open(gallery.thumbnail(gallery.content_G[place])) as small:
            assert max(small.size) == 512
            size = json.loads(gallery.small_masks[place])["size"]
            assert size == [small.height, small.width]
    assert rows["encounter"].notna().all()
    assert gallery.table.original["trap_id"].notna().all()


def test_thumbnails_can_be_left_out(data, halves, photos, tmp_path):
    config = _config(data, tmp_path, f"dataset.metadata_file={halves[0]['all']}")
    gallery = build_gallery(config, tmp_path / "gallery", thumbnail_px=0).gallery
    assert not (gallery.folder / "thumbnails").exists()
    assert len(_ask(gallery, photos, tmp_path)["open_set"]) == len(photos)


def test_weights_of_a_checkpoint_come_with_the_gallery(data, halves, photos, tmp_path):
    state = build_backbone("efficientnet-lite0").module.state_dict()
    state = {name: tensor.clone() for name, tensor in state.items()}
    state["conv_stem.weight"] *= 1.25
    save_file(state, tmp_path / "own.safetensors")
    own = f"model.checkpoint={tmp_path / 'own.safetensors'}"
    config = _config(data, tmp_path, own, f"dataset.metadata_file={halves[0]['all']}")
    build_gallery(config, tmp_path / "gallery")
    (tmp_path / "own.safetensors").unlink()
    (tmp_path / "gallery").rename(tmp_path / "moved")
    gallery = open_gallery(tmp_path / "moved")
    assert gallery.config.model.checkpoint == str(tmp_path / "moved/backbone-0.safetensors")
    assert len(_ask(gallery, photos, tmp_path / "ask")["open_set"]) == len(photos)


def _damaged(cosine, tmp_path, change):
    copy = tmp_path / "damaged"
    shutil.copytree(cosine.folder, copy)
    change(copy)
    if (copy / "gallery.json").exists():
        write_checksums(copy)  # whoever means harm does so too
    return copy


def _edited(**fields):
    def change(folder):
        manifest = json.loads((folder / "gallery.json").read_text())
        (folder / "gallery.json").write_text(json.dumps(manifest | fields))

    return change


def _with_path(path):
    def change(folder):
        table = pq.read_table(folder / "images.parquet")
        paths = [path, *table["path"].to_pylist()[1:]]
        place = table.schema.get_field_index("path")
        pq.write_table(table.set_column(place, "path", [paths]), folder / "images.parquet")

    return change


def _linked(name):
    def change(folder):
        (folder / name).rename(folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")

    return change


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code of the gallery was run",))


def _pickled(folder):
    np.save(folder / "global-0.npy", np.array([_Bomb()], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edited(format=99), "format 99"),
        (_edited(config={"dataset": {"rot": "."}}), "unknown key"),
        (_edited(quality={"level": "splendid"}), "not a quality: input should be 'good'"),
        (_edited(checkpoints=[0]), "backbone-0.safetensors: is missing"),
        (_with_path("../../etc/passwd"), "not a path inside"),
        (_with_path("/etc/passwd"), "not a path inside"),
        (_linked("images.parquet"), "is a link"),
        (_linked("global-0.npy"), "is a link"),
        (_pickled, "not an array"),
        (lambda folder: (folder / "gallery.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "gallery.json").write_text("[" * 10**6), "is not JSON"),
        (lambda folder: (folder / "gallery.json").unlink(), "no gallery"),
    ],
)
def test_a_gallery_that_cannot_be_trusted_is_refused(cosine, photos, tmp_path, change, message):
    folder = _damaged(cosine, tmp_path, change)
    with pytest.raises((GalleryError, ConfigError), match=message):
        _ask(open_gallery(folder), photos, tmp_path / "ask")


@pytest.fixture(scope="module")
def fused(data, halves, tmp_path_factory):
    """A small gallery with a file of each kind."""
    out = tmp_path_factory.mktemp("fused")
    state = build_backbone("efficientnet-lite0").module.state_dict()
    save_file(dict(state), out / "own.safetensors")
    more = [f"dataset.metadata_file={halves[0]['first']}", "benchmark.open_set.enabled=false"]
    more += [f"model.checkpoint={out / 'own.safetensors'}", *LOCAL]
    return build_gallery(_config(data, out, *more), out / "gallery").gallery


@pytest.mark.parametrize("how", ["bit", "zeroed", "cut"])
@pytest.mark.parametrize(
    "pattern",
    [
        *("gallery.json", "images.parquet", "global-0.npy", "fusion.json", "checksums.json"),
        *("backbone-0.safetensors", "local-*/part-*.npy", "local-*/part-*.keys"),
    ],
)
def test_a_damaged_gallery_names_its_part(fused, photos, tmp_path, pattern, how):
    copy = tmp_path / "damaged"
    shutil.copytree(fused.folder, copy)
    (file,) = copy.glob(pattern)
    data, middle = bytearray(file.read_bytes()), file.stat().st_size // 2
    if how == "bit":
        data[middle] ^= 2
    elif how == "zeroed":
        data[middle : middle + 4096] = bytes(len(data[middle : middle + 4096]))
    else:
        del data[middle:]
    file.write_bytes(data)
    named = "gallery.json|checksums.json" if pattern == "checksums.json" else file.stem
    with pytest.raises((GalleryError, CacheError), match=named):
        _ask(open_gallery(copy), photos[:1], tmp_path / "ask")


def test_a_gallery_of_an_earlier_version_opens_and_says_that_it_has_no_checksums(
    data, halves, fused, photos, tmp_path, caplog
):
    copy = tmp_path / "old"
    shutil.copytree(fused.folder, copy)
    manifest = json.loads((copy / "gallery.json").read_text())
    del manifest["checksums"]
    (copy / "gallery.json").write_text(json.dumps(manifest))
    (copy / "checksums.json").unlink()
    for part in copy.glob("local-*/part-*"):
        part.rename(part.with_stem(part.stem.rsplit("-", 1)[0]))
    gallery = open_gallery(copy)
    assert "no checksums" in caplog.text
    expected, found = (_ask(one, photos, tmp_path / "ask") for one in (fused, gallery))
    for name in ("rankings", "answers"):
        pd.testing.assert_frame_equal(found[name], expected[name])
    grown = _add(gallery, data, tmp_path / "out", halves[0]["rest"]).gallery
    caplog.clear()
    assert open_gallery(grown.folder).checksums is not None
    assert not caplog.text
    assert all(SEALED.search(part.stem) for part in grown.folder.glob("local-*/part-*"))


def test_sift_galleries_open(tmp_path):
    """Their features have a size and an angle beside each place."""
    features = LocalExtractor("sift", keypoints=16)(
        np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), np.uint8)
    )
    key = image_key("0" * 32, None)
    write_part(tmp_path / "local-sift", [key], as_record(features))
    config = load_config(ProbeConfig, None, ["benchmark.local_top_k=16"])
    rows = pd.DataFrame({name: [None] for name in TABLE_COLUMNS})
    table = ImageTable(rows, rows, "", "")
    gallery = StoredGallery(tmp_path, {}, config, table, ["0" * 32], [None], None, None)
    found = gallery.local_store("sift").gather([key])
    assert np.array_equal(found.frame_NKF, features.frame_NKF)
    assert found.frame_NKF.shape == (1, 16, 2)


def test_a_linked_thumbnail_is_not_shown(cosine, tmp_path):
    content = cosine.content_G[0]
    name = f"thumbnails/{content[:2]}/{content}.jpg"
    assert cosine.thumbnail(content) is not None
    assert open_gallery(_damaged(cosine, tmp_path, _linked(name))).thumbnail(content) is None


def test_photographs_that_contradict_the_gallery_are_an_error(data, halves, cosine, tmp_path):
    _, train = halves
    other = train.iloc[:3].copy()
    other.loc[other.index[0], "unique_name"] = "somebody_else"
    other.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(GalleryError, match=r"line 2: .* shows somebody_else; in the gallery"):
        _add(cosine, data, tmp_path, tmp_path / "other.csv")


def test_a_build_that_fails_leaves_what_was_there(data, cosine, tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    with pytest.raises(ConfigError, match="is not a gallery"):
        build_gallery(_config(data, tmp_path), tmp_path / "notes")
    folder = tmp_path / "gallery"
    shutil.copytree(cosine.folder, folder)
    monkeypatch.setattr(gallery_build.GalleryContent, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_gallery(_config(data, tmp_path), folder, split="train")
    assert open_gallery(folder).fingerprint == cosine.fingerprint
    assert not [path for path in tmp_path.iterdir() if path.name.endswith((".tmp", ".old"))]


def test_what_a_killed_build_left_is_tidied_up(data, halves, cosine, tmp_path):
    # Killed between the two renames: the old gallery stands aside, and the new one was not there.
    aside = tmp_path / ".gallery.12345678.tmp.old"
    shutil.copytree(cosine.folder, aside)
    (tmp_path / ".gallery.12345678.tmp").mkdir()
    config = _config(data, tmp_path, "dataset.label_col=no_such_column")
    with pytest.raises(MetadataError):
        build_gallery(config, tmp_path / "gallery")
    config = _config(data, tmp_path, f"dataset.metadata_file={halves[0]['first']}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery_build.GalleryContent, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_gallery(config, tmp_path / "gallery")
    assert open_gallery(tmp_path / "gallery").fingerprint == cosine.fingerprint
    assert [path.name for path in tmp_path.glob(".gallery.*")] == [".gallery.lock"]


@pytest.mark.parametrize("lost", ["nothing", "new"])
def test_a_gallery_whose_add_was_killed_between_the_renames_is_there(cosine, tmp_path, lost):
    shutil.copytree(cosine.folder, tmp_path / ".gallery.12345678.tmp.old")
    if lost == "nothing":
        shutil.copytree(cosine.folder, tmp_path / ".gallery.12345678.tmp")
    assert open_gallery(tmp_path / "gallery").fingerprint == cosine.fingerprint
    assert {path.name for path in tmp_path.iterdir()} <= {"gallery", ".gallery.lock"}


def test_a_new_gallery_that_cannot_be_opened_does_not_take_the_old_ones_place(
    data, cosine, tmp_path, monkeypatch
):
    folder = tmp_path / "gallery"
    shutil.copytree(cosine.folder, folder)
    write = gallery_build.GalleryContent.write

    def badly(self, out, *more):
        write(self, out, *more)
        (out / "global-0.npy").write_bytes(b"")

    monkeypatch.setattr(gallery_build.GalleryContent, "write", badly)
    with pytest.raises(GalleryError, match=r"global-0.npy: is damaged"):
        build_gallery(_config(data, tmp_path), folder, split="train")
    assert open_gallery(folder).fingerprint == cosine.fingerprint
    assert {path.name for path in tmp_path.glob(".gallery*")} == {".gallery.lock"}


def test_a_gallery_that_is_replaced_while_it_is_opened_is_opened_again(
    cosine, fused, tmp_path, monkeypatch
):
    folder = tmp_path / "gallery"
    shutil.copytree(cosine.folder, folder)
    read = opening_module.read_images_table

    def swapping(file):
        if open_gallery_count.append(1) or len(open_gallery_count) == 1:
            with new_folder(folder, lambda _: None) as temporary:
                shutil.copytree(fused.folder, temporary, dirs_exist_ok=True)
        return read(file)

    open_gallery_count = []
    monkeypatch.setattr(opening_module, "read_images_table", swapping)
    gallery = open_gallery(folder)
    assert (gallery.fingerprint, len(gallery)) == (fused.fingerprint, len(fused))
    assert not gallery.is_replaced()
    shutil.rmtree(folder)
    assert gallery.is_replaced()


FEATURE_KEYS = [
    *("dataset.image_size=64", "dataset.resize=stretch", "dataset.resize=pad"),
    *("dataset.no_background=true", "dataset.crop_to_mask=true", "dataset.reduced_decode=false"),
    *("dataset.no_background=true dataset.no_mask=whole", "dataset.crop=box"),
    *("dataset.crop_to_mask=true dataset.crop_margin=0.4", "model.flip_augmentation=true"),
    *("dataset.no_background=true dataset.fill_rgb=[255,0,0]", "model.dtype=bf16"),
    *("model.batch_size=5", "model.checkpoint=OTHER", "model.type=timm:resnet18"),
]
"""Whatever changes a global feature, each with the keys that it needs to matter."""
NO_FEATURE_KEYS = {
    *("root", "metadata_file", "path_col", "label_col", "split_col", "make_split", "test_fraction"),
    *("train_split_value", "val_split_value", "query_split_value", "database_split_value"),
    *("mask_col", "encounter_cols", "viewpoint_col", "date_col", "unknown_identities", "on_error"),
    *("missing_values", "bbox_cols", "bbox_format", "preset"),
}


def test_every_key_of_the_data_set_and_the_model_is_known_to_change_features_or_not():
    named = " ".join(FEATURE_KEYS)
    for section, config in (("dataset", DatasetConfig), ("model", ModelConfig)):
        for key in config.model_fields:
            changes = f"{section}.{key}=" in named
            assert changes != (section == "dataset" and key in NO_FEATURE_KEYS), key


def test_what_an_earlier_version_fitted_is_fitted_anew_by_add(
    data, halves, fused, photos, tmp_path
):
    copy = tmp_path / "old"
    shutil.copytree(fused.folder, copy)
    manifest = json.loads((copy / "gallery.json").read_text())
    del manifest["checksums"]
    (copy / "checksums.json").unlink()
    manifest |= {"format": 1, "open_set": {"of": "another form"}}
    (copy / "gallery.json").write_text(json.dumps(manifest))
    (copy / "fusion.json").write_text('{"of": "another form"}')
    with pytest.raises(GalleryError, match="exreid gallery add"):
        _ask(open_gallery(copy), photos, tmp_path / "ask")
    built = _add(open_gallery(copy), data, tmp_path / "out", halves[0]["first"])
    assert (built.added, built.extracted) == (0, 0)
    assert built.gallery.fingerprint == fused.fingerprint
    expected, found = (_ask(one, photos, tmp_path / "ask") for one in (fused, built.gallery))
    for name in ("rankings", "answers"):
        pd.testing.assert_frame_equal(found[name], expected[name])


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory):
    folder, state = tmp_path_factory.mktemp("weights"), {}
    for name, tensor in build_backbone("efficientnet-lite0").module.state_dict().items():
        state[name] = tensor * 1.5 if name == "conv_stem.weight" else tensor
    save_file(state, folder / "other.safetensors")
    return folder / "other.safetensors"


def test_every_key_that_changes_features_changes_where_they_are_cached(data, other_weights):
    def folder(*words):
        config = _config(data, data, *words)
        model = config.model
        backbone = build_backbone(
            model.type,
            checkpoint=model.checkpoint,
            image_size=config.dataset.image_size,
            pretrained="resnet" not in model.type,
        )
        return embedding_folder(config, embedding_description(config, backbone, "cpu"))

    cases = [case.replace("OTHER", str(other_weights)).split() for case in FEATURE_KEYS]
    folders = [folder(), *(folder(*case) for case in cases)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    "changed", ["model.flip_augmentation=true", "model.checkpoint=OTHER", "dataset.resize=stretch"]
)
def test_what_was_cached_under_another_key_is_never_served(
    data, halves, cosine, photos, other_weights, tmp_path, changed
):
    """Against a run that finds nothing in its cache."""
    word = changed.replace("OTHER", str(other_weights))
    files = [f"dataset.metadata_file={halves[0]['first']}", "benchmark.open_set.enabled=false"]
    default = _ask(cosine, photos, tmp_path / "full")["rankings"]
    found = []
    for name in ("full", "empty"):
        config = _config(data, tmp_path / name, *files, word)
        gallery = build_gallery(config, tmp_path / name / "gallery", thumbnail_px=0).gallery
        found.append(_ask(gallery, photos, tmp_path / name)["rankings"])
    pd.testing.assert_frame_equal(*found)
    assert default["score"].max() != found[0]["score"].max(), "this key changes nothing"


def test_a_gallery_decides_unless_told_not_to(data, tmp_path):
    assert _config(data, tmp_path).benchmark.open_set.enabled
    assert not _config(
        data, tmp_path, "benchmark.open_set.enabled=false"
    ).benchmark.open_set.enabled


def test_decisions_survive_json_to_the_last_bit():
    for bar in (0.1 + 0.2, float("inf"), float("-inf")):
        decider = Decider((1 / 3, 0.0), -2.0 / 7, (0.1, 1e-300), (1 / 7, 0.9), bar, "why")
        assert decider_from_json(json.loads(json.dumps(decider_to_json(decider)))) == decider


def test_the_command_line_tells_what_was_made(data, halves, cosine, tmp_path, capsys):
    files, train = halves
    arguments = ["gallery", "build", "--out", str(tmp_path / "g"), f"dataset.root={data}", *SMALL]
    arguments += [
        "benchmark.method=cosine",
        f"output.root={tmp_path}",
        f"dataset.metadata_file={files['first']}",
    ]
    assert main(arguments) == 0
    assert f"{len(train) - 6} photographs added" in capsys.readouterr().out
    add = ["gallery", "add", str(tmp_path / "g"), f"dataset.root={data}", "ray.num_actors=0"]
    add += [f"output.root={tmp_path}", f"dataset.metadata_file={files['all']}"]
    assert main(add) == 0
    shown = capsys.readouterr().out
    assert f"6 photographs added, {len(train) - 6} were in it already; 6 features made" in shown
    assert main([*add, "model.type=dinov2-small"]) == 2
    assert "model.type: cannot be set here" in capsys.readouterr().err
    assert main(["gallery", "info", str(tmp_path / "g"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == cosine.fingerprint
    assert main(["gallery", "info", str(tmp_path / "g")]) == 0
    shown = capsys.readouterr().out
    assert "Verdict: poor. This gallery cannot tell these animals apart." in shown
    assert "5% needs 19 animals, and the gallery has 7 to practise on" in shown
    assert "To try: local features (benchmark.method=wildfusion" in shown


def test_a_gallery_of_before_verdicts_opens_and_says_that_it_has_none(cosine, tmp_path, capsys):
    shutil.copytree(cosine.folder, tmp_path / "old")
    _edited(quality=None)(tmp_path / "old")
    write_checksums(tmp_path / "old")
    old = open_gallery(tmp_path / "old")
    assert cosine.quality.level == "poor"
    assert not cosine.decides
    assert old.quality is None
    assert old.decides, "as it did when it was built"
    assert old.fingerprint == cosine.fingerprint
    assert main(["gallery", "info", str(old.folder)]) == 0
    assert "Verdict: unknown. An earlier version of exreid built this" in capsys.readouterr().out


def test_a_gallery_whose_animals_have_one_encounter_each_is_built_and_not_judged(
    data, metadata, tmp_path, capsys
):
    first = metadata[metadata["split-time_open"] == "train"].drop_duplicates("unique_name")
    first.to_csv(tmp_path / "one.csv", index=False)
    config = _config(data, tmp_path, f"dataset.metadata_file={tmp_path / 'one.csv'}")
    gallery = build_gallery(config, tmp_path / "gallery").gallery
    assert gallery.quality.level == "unknown"
    assert not gallery.decides
    assert main(["gallery", "info", str(gallery.folder)]) == 0
    assert "not measured. No animal has photographs of two encounters" in capsys.readouterr().out


def test_a_gallery_that_was_sent_says_nothing_about_this_machine(cosine, tmp_path, monkeypatch):
    shutil.copytree(cosine.folder, tmp_path / "sent")
    file = tmp_path / "sent" / "gallery.json"
    manifest = json.loads(file.read_text())
    elsewhere = str(tmp_path / "elsewhere")
    config = manifest["config"]
    config["output"] = {"root": elsewhere, "run_id": "theirs"}
    config["wandb"] |= {"enabled": True, "entity": "them"}
    config["ray"] |= {"address": "ray://10.0.0.1:10001", "num_actors": 4}
    config["visualization"]["enabled"] = True
    config["safety"] = "off"
    config["dataset"] |= {"root": elsewhere, "metadata_file": "s3://theirs/metadata.csv"}
    config["dataset"]["on_error"] = "skip"
    config["benchmark"]["cache"] = elsewhere
    config["benchmark"]["calibration"]["load"] = "s3://theirs/fusion.json"
    config["model"]["checkpoint"] = "s3://theirs/weights.pth"
    del manifest["checksums"]  # whoever sends a gallery can make them fit
    (tmp_path / "sent" / "checksums.json").unlink()
    file.write_text(json.dumps(manifest))
    sent = open_gallery(tmp_path / "sent")
    assert sent.config == cosine.config
    plain = ProbeConfig()
    for block in ("output", "wandb", "ray", "visualization", "safety"):
        assert getattr(sent.config, block) == getattr(plain, block)
    assert sent.config.dataset.image_size == 96, "what its features depend on is its own"
    monkeypatch.chdir(tmp_path)
    assert sent.config.benchmark.cache == "auto"
    assert not (tmp_path / "elsewhere").exists()
    config["dataset"] = ["no", "block"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="dataset"):
        open_gallery(tmp_path / "sent")


def test_a_gallery_that_was_sent_downloads_nothing_unasked(
    data, cosine, photos, tmp_path, monkeypatch, impatient_hub, capsys
):
    shutil.copytree(cosine.folder, tmp_path / "sent")
    file = tmp_path / "sent" / "gallery.json"
    manifest = json.loads(file.read_text())
    manifest["config"]["model"]["type"] = "hf-hub:nobody/nothing"
    del manifest["checksums"]
    (tmp_path / "sent" / "checksums.json").unlink()
    file.write_text(json.dumps(manifest))
    asked = []

    def refuse(*address, **unused):
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    sent, places = str(tmp_path / "sent"), [f"output.root={tmp_path}", "ray.num_actors=0"]
    commands = [
        ["identify", *map(str, photos), "--gallery", sent, *places],
        ["gallery", "add", sent, f"dataset.root={data}", *places],
    ]
    for command in commands:
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "hf download nobody/nothing" in said
        assert "Add --download" in said
        assert "Traceback" not in said
        assert asked == []
        assert main([*command, "--download"]) == 1
        assert asked != []
        asked.clear()
        capsys.readouterr()
    assert main(["gallery", "info", sent]) == 0
    assert asked == []
