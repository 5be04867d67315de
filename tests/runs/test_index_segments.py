"""The index of a larger gallery, in segments, against the comparison with all its images."""

import numpy as np
import pandas as pd
import pytest

from exreid.config.io import load_config, with_overrides
from exreid.config.probe import ProbeConfig
from exreid.errors import GalleryError
from exreid.gallery import edits
from exreid.gallery.photo_table import PhotoOptions
from exreid.matching import segment_files
from exreid.matching import segments as maths
from exreid.matching.segment_files import Segment
from exreid.pipeline import index_segments, local_index
from exreid.pipeline.index_segments import plan_segments, stored_segments
from exreid.records import LocalFeatures
from exreid.runs.gallery_build import build_gallery
from exreid.runs.gallery_change import ADD_KEYS, add_to_gallery, edit_gallery, edit_of
from exreid.runs.identify import run_identify
from exreid.runs.probe import run_probe

KEYS = [
    *("benchmark.local_top_k=32", "benchmark.local_size=96", "dataset.image_size=64"),
    *("ray.num_actors=0", "benchmark.bootstrap_resamples=0", "benchmark.top_k=[1,3]"),
    *("dataset.encounter_cols=[source,encounter]", "benchmark.method=local_index"),
]


def _config(dataset, out, *more):
    overrides = [f"dataset.root={dataset}", f"output.root={out}", *KEYS, *more]
    return load_config(ProbeConfig, None, overrides)


def _ranked(folder):
    ranked = pd.read_parquet(folder / "rankings.parquet")
    return ranked.sort_values(["query_id", "rank"]).reset_index(drop=True)


def _assert_equal(ranked, other):
    """Of two descriptors of one image that are as near, the one or the other is found."""
    assert ranked.drop(columns="score").equals(other.drop(columns="score"))
    assert ranked["score"].to_numpy() == pytest.approx(other["score"].to_numpy(), abs=2e-4)


@pytest.fixture
def small(monkeypatch):
    """Segments of four images, of which all cells are looked at: what they find is exact."""
    monkeypatch.setattr(index_segments, "COMPARED_IMAGES", 3)
    monkeypatch.setattr(index_segments, "SEGMENT_DESCRIPTORS", 4 * 32)
    monkeypatch.setattr(maths, "CELLS_A_PROBE", 1)
    monkeypatch.setattr(index_segments, "DESCRIPTORS", 64)
    monkeypatch.setattr(local_index, "COMPARED_BEST", 1)


def _segment(keys):
    return Segment("", tuple(keys), tuple(keys), 32)


def _cut(keys, known, most=100):
    plan = plan_segments(list(keys), [_segment(part) for part in known], most=most)
    for segment, place_R in zip(plan.known, plan.place_of_known, strict=True):
        for key, place in zip(segment.keys, place_R.tolist(), strict=True):
            assert (keys[place] == key) if place >= 0 else (key not in keys)
    everywhere = [*plan.rest, *[p for r in (*plan.new, *plan.place_of_known) for p in r if p >= 0]]
    assert sorted(everywhere) == list(range(len(keys))), "each image once"
    return [len(part.keys) for part in plan.known], [len(part) for part in plan.new], len(plan.rest)


def test_a_gallery_is_cut_anew_only_where_too_much_of_it_changed(monkeypatch):
    monkeypatch.setattr(index_segments, "COMPARED_IMAGES", 5)
    assert _cut("abc", []) == ([], [], 3)
    assert _cut("abcdefghijklm", [], most=8) == ([], [8], 5)
    assert _cut("abcdefghijklmn", [], most=8) == ([], [8, 6], 0)
    ten = "abcdefghij"
    assert _cut(ten + "klmno", [ten]) == ([10], [], 5), "a few more are compared"
    assert _cut(ten + "klmnop", [ten]) == ([10], [6], 0), "more are a segment"
    assert _cut(ten + "klmnopq", [ten[:6], ten[6:]]) == ([], [17], 0), "with smaller ones"
    assert _cut("abcdef", [ten]) == ([10], [], 0), "some were removed"
    assert _cut("abcd", [ten]) == ([], [], 4), "most were removed"
    assert _cut("aabbccddee", ["abcde"], most=3) == ([5], [], 5), "copies"


def test_what_all_cells_find_is_what_comparing_all_images_finds(few, tmp_path, small):
    more = ["benchmark.exclude=encounter", "dataset.query_split_value=train"]
    folder, result = run_probe(_config(few, tmp_path, *more))
    exact, by_all = run_probe(_config(few, tmp_path, *more, "benchmark.index_search=exact"))
    _assert_equal(_ranked(folder), _ranked(exact))
    assert result.metrics == by_all.metrics
    assert by_all.counts["index_search"] == "exact"
    assert result.counts["index_search"] == "approximate"
    assert result.counts["index_recall"] == 1.0
    # Of each of the queries every sixteenth of 32 keypoints, and the four nearest images.
    assert result.counts["index_recall_of"] == 2 * 4 * result.counts["queries"]
    _, again = run_probe(_config(few, tmp_path, *more))
    assert again.counts["index_recall"] == 1.0
    assert again.counts["pairs_known"] == again.counts["pairs_searched"]


def test_the_recall_that_is_told_is_the_share_that_was_found(few, tmp_path, small, monkeypatch):
    monkeypatch.setattr(maths, "CELLS_A_PROBE", 1000)
    monkeypatch.setattr(index_segments, "DESCRIPTORS", 1)
    folder, result = run_probe(_config(few, tmp_path, "benchmark.keep_candidates=1000"))
    exact, _ = run_probe(_config(few, tmp_path, "benchmark.index_search=exact"))
    assert 0 < result.counts["index_recall"] < 1
    assert result.counts["gallery_images"] > 3
    assert set(_ranked(folder)["query_id"]) == set(_ranked(exact)["query_id"])
    # Where all images score alike, all keypoints that say something are searched again.
    monkeypatch.setattr(local_index, "ALIKE", 1.0)
    monkeypatch.setattr(maths, "CELLS_A_DEEP_PROBE", 1)
    monkeypatch.setattr(index_segments, "DESCRIPTORS", 64)
    monkeypatch.setattr(local_index, "DECIDING", 1000)
    _, more = run_probe(_config(few, tmp_path / "more"))
    assert more.counts["index_recall"] > result.counts["index_recall"]


def test_a_killed_build_goes_on(few, tmp_path, small, monkeypatch):
    built, plain = [], index_segments.build_segment

    def killed(*arguments, **named):
        built.append(1)
        if len(built) == 2:
            raise KeyboardInterrupt
        return plain(*arguments, **named)

    monkeypatch.setattr(index_segments, "build_segment", killed)
    with pytest.raises(KeyboardInterrupt):
        run_probe(_config(few, tmp_path))
    folder, _ = run_probe(_config(few, tmp_path))
    files = list((tmp_path / ".exreid_cache").rglob("segment-*.json"))
    assert len(built) == len(files) + 1, "the first one is not built again"
    exact, _ = run_probe(_config(few, tmp_path, "benchmark.index_search=exact"))
    _assert_equal(_ranked(folder), _ranked(exact))
    # A damaged one is set aside and built again; what was searched is forgotten here.
    content = bytearray(files[0].with_suffix(".faiss").read_bytes())
    content[-100:] = b""
    files[0].with_suffix(".faiss").write_bytes(content)
    again, _ = run_probe(_config(few, tmp_path, "dataset.query_split_value=train"))
    assert len(built) == len(files) + 2
    assert list((tmp_path / ".exreid_cache").rglob("segment-*.damaged"))
    more = ["benchmark.index_search=exact", "dataset.query_split_value=train"]
    _assert_equal(_ranked(again), _ranked(run_probe(_config(few, tmp_path, *more))[0]))


@pytest.mark.usefixtures("local_ray")
def test_an_actor_builds_and_searches_as_one_process(few, tmp_path, monkeypatch):
    monkeypatch.setattr(index_segments, "COMPARED_IMAGES", 3)
    monkeypatch.setattr(index_segments, "SEGMENT_DESCRIPTORS", 4 * 32)
    monkeypatch.setattr(index_segments, "QUERIES_PER_TILE", 1)
    folder, result = run_probe(_config(few, tmp_path / "one"))
    other, by_actors = run_probe(_config(few, tmp_path / "more", "ray.num_actors=1"))
    assert by_actors.metrics == result.metrics
    assert by_actors.counts["index_recall"] == result.counts["index_recall"]
    assert _ranked(other).equals(_ranked(folder))


def test_a_gallery_keeps_its_segments(few, tmp_path, small, monkeypatch):
    more = ["benchmark.open_set.queries=10", "dataset.split_col=split-time_open"]
    more.append("dataset.mask_col=null")
    table = pd.read_csv(next(few.glob("*Real.csv")), dtype=str)
    table.iloc[:-3].to_csv(tmp_path / "first.csv", index=False)
    more.append(f"dataset.metadata_file={tmp_path / 'first.csv'}")
    config = _config(few, tmp_path / "build", *more, "benchmark.open_set.enabled=true")
    folder = tmp_path / "gallery"
    gallery = build_gallery(config, folder).gallery
    index = folder / "index-aliked-n16"
    before = sorted(file.name for file in index.glob("segment-*"))
    assert len(before) == 2 * len(list(index.glob("segment-*.json"))) > 0
    assert len(list(index.glob("recall-*.json"))) == 1

    photos = [few / path for path in table["path"].iloc[-3:]]
    asked = _ask(gallery, photos, tmp_path / "asked")
    assert not list((tmp_path / "asked").rglob("segment-*")), "nothing is built"
    # A probe of the same photographs gives the same answers.
    table["split-time_open"] = ["train"] * (len(table) - 3) + ["test"] * 3
    table.to_csv(tmp_path / "all.csv", index=False)
    more[-1] = f"dataset.metadata_file={tmp_path / 'all.csv'}"
    run, result = run_probe(_config(few, tmp_path / "build", *more))
    assert result.counts["index_search"] == "approximate"
    columns = ["rank", "gallery_id", "score"]
    assert np.array_equal(asked[columns].to_numpy(), _ranked(run)[columns].to_numpy())

    # One that is removed answers no more, and nothing is built either.
    out = table["path"].iloc[0]
    edit = edit_of(gallery, "remove", edits.remove(gallery.table, [out]))
    local = with_overrides(gallery.config, ["ray.num_actors=0"], ADD_KEYS)
    gallery = edit_gallery(gallery, local, edit).gallery
    assert before == sorted(file.name for file in index.glob("segment-*"))
    asked = _ask(gallery, photos, tmp_path / "fewer")
    table.iloc[1:].to_csv(tmp_path / "fewer.csv", index=False)
    more[-1] = f"dataset.metadata_file={tmp_path / 'fewer.csv'}"
    exact, _ = run_probe(_config(few, tmp_path / "build", *more, "benchmark.index_search=exact"))
    assert out not in set(asked["gallery_id"])
    _assert_equal(asked[columns].reset_index(drop=True), _ranked(exact)[columns])

    # Three more are compared one by one, whatever is in the segments.
    overrides = [f"dataset.root={few}", f"dataset.metadata_file={tmp_path / 'all.csv'}"]
    overrides += [f"output.root={tmp_path / 'added'}", "ray.num_actors=0"]
    monkeypatch.setattr(index_segments, "COMPARED_IMAGES", 6)
    added = add_to_gallery(gallery, with_overrides(gallery.config, overrides, ADD_KEYS))
    assert added.added == 3
    assert before == sorted(file.name for file in index.glob("segment-*"))
    assert added.gallery.index_folder("aliked-n16") == index

    file = next(index.glob("segment-*.json"))
    file.write_text(file.read_text().replace("0", "1", 1))
    with pytest.raises(GalleryError, match=file.name):
        stored_segments(index)


def _ask(gallery, photos, out):
    config = with_overrides(gallery.config, [f"output.root={out}"], ("output.",))
    config = config.model_copy(update={"ray": config.ray.model_copy(update={"num_actors": 0})})
    folder, _ = run_identify(photos, gallery, config, PhotoOptions())
    return pd.read_parquet(folder / "rankings.parquet").sort_values(["query_id", "rank"])


def test_segments_of_an_earlier_format_are_built_again(tmp_path, monkeypatch, caplog):
    rng = np.random.default_rng(0)
    features = LocalFeatures(
        np.zeros((3, 8, 2), np.float32),
        rng.normal(size=(3, 8, 16)).astype(np.float16),
        np.full(3, 8, np.int32),
        np.full((3, 2), 64, np.int32),
    )
    pairs, keys = np.stack([np.arange(3)] * 2, axis=1), ["a" * 32, "b" * 32, "c" * 32]
    for number in (1, segment_files.FORMAT):
        monkeypatch.setattr(segment_files, "FORMAT", number)
        folder = tmp_path / str(number)
        maths.build_segment(None, features, features, pairs, keys=keys, folder=folder)
        assert len(stored_segments(folder)) == (number > 1)
        assert ("3 photographs is of an earlier exreid" in caplog.text) == (number == 1)
        caplog.clear()
