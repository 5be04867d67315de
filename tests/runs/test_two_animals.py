"""Two animals in one photograph: probed, kept in a gallery, identified as two, and never as one."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as coco

from exreid.cli import main
from exreid.metrics.grouping import clusters_at_cuts


def _keys(folder, out):
    return [f"dataset.root={folder}", "dataset.encounter_cols=[encounter]", f"output.root={out}",
            "ray.num_actors=0", "dataset.image_size=96", "benchmark.bootstrap_resamples=20",
            "dataset.crop_margin=0", "benchmark.method=cosine"]  # fmt: skip


def test_a_probe_ranks_crops_as_it_ranks_the_animals_cut_out_by_hand(side_by_side, tmp_path):
    """Truth: the same pixels as files of their own, probed without any box."""
    both, cut = side_by_side / "both", side_by_side / "cut"
    for name, folder in (("both", both), ("cut", cut)):
        keys = [*_keys(folder, tmp_path), f"output.run_id={name}"]
        assert main(["probe", *keys]) == 0
    runs = [tmp_path / "benchmark_runs" / name for name in ("both", "cut")]
    ranked = [pd.read_parquet(run / "rankings.parquet") for run in runs]
    assert ranked[0]["query_id"].nunique() == 6
    np.testing.assert_array_equal(ranked[0]["score"], ranked[1]["score"])
    np.testing.assert_array_equal(ranked[0]["is_match"], ranked[1]["is_match"])


def test_two_animals_get_two_answers_that_are_never_the_same(side_by_side, tmp_path):
    both = side_by_side / "both"
    gallery = tmp_path / "gallery"
    keys = [*_keys(both, tmp_path), "benchmark.open_set.queries=12"]
    assert main(["gallery", "build", "--out", str(gallery), "--split", "train", *keys]) == 0
    rows = pd.read_csv(both / "metadata.csv")
    rows = rows[rows["split-time_closed"] == "test"]
    # Both boxes on the left animal, a little apart: alone, both would be called the same.
    twice = [json.dumps([2 * (i % 2), 0, 156, 120]) for i in range(len(rows))]
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in set(rows["path"]):
        (photos / path).write_bytes((both / path).read_bytes())
    rows.assign(bbox=twice)[["path", "bbox", "encounter"]].to_csv(photos / "boxes.csv", index=False)
    ask = ["identify", str(photos), "--gallery", str(gallery), "--metadata",
           str(photos / "boxes.csv"), f"output.root={tmp_path}", "ray.num_actors=0",
           "output.run_id=ask"]  # fmt: skip
    assert main(ask) == 0
    run = tmp_path / "identifications" / "ask"
    answers = pd.read_csv(run / "identifications.csv")
    answered = answers[answers["status"] == "answered"]
    assert len(answered) == len(rows) == 6
    assert answered["visit"].nunique() == 6
    for _, pair in answered.groupby(answered["photo"].str.partition("#")[0]):
        assert sorted(pair["photo"].str.partition("#")[2]) == ["1", "2"]
        assert pair["nearest_known"].nunique() == 2
        named = pair["animal"].dropna()
        assert named.is_unique
    assert main(["report", str(run)]) == 0
    assert len(list((run / "report").rglob("p/*/*.jpg"))) >= 6
    assert "6 animals on 3 photographs" in (run / "report" / "index.html").read_text()
    shown = pd.read_parquet(run / "photos.parquet")
    shown = shown[shown["side"] == "query"]
    assert (shown["visit"] == "v" + shown["path"] + " / " + shown["image_id"]).all()


@pytest.fixture(scope="module")
def two_gallery(side_by_side, tmp_path_factory):
    """A gallery of their photographs of training, by their boxes."""
    out = tmp_path_factory.mktemp("gallery")
    keys = [*_keys(side_by_side / "both", out), "benchmark.open_set.queries=12"]
    assert main(["gallery", "build", "--out", str(out / "g"), "--split", "train", *keys]) == 0
    return out / "g"


def _asked(gallery, out, run_id, *given):
    """The scores of a run of identify, by image and candidate."""
    keys = [f"output.root={out}", "ray.num_actors=0", f"output.run_id={run_id}"]
    assert main(["identify", *map(str, given), "--gallery", str(gallery), *keys]) == 0
    run = out / "identifications" / run_id
    return pd.read_parquet(run / "rankings.parquet"), pd.read_parquet(run / "photos.parquet")


def _photographs(side_by_side, folder):
    """The photographs asked about, in a folder of their own, and their boxes."""
    rows = pd.read_csv(side_by_side / "both" / "metadata.csv")
    rows = rows[rows["split-time_closed"] == "test"]
    folder.mkdir()
    for path in set(rows["path"]):
        (folder / path).write_bytes((side_by_side / "both" / path).read_bytes())
    return rows


def test_a_mask_image_of_two_animals_asks_for_each_as_its_box_does(
    side_by_side, two_gallery, tmp_path
):
    """Truth: the same boxes, told by a table."""
    photos = tmp_path / "photos"
    rows = _photographs(side_by_side, photos)
    numbers = np.zeros((120, 320), np.uint8)
    numbers[:, :160], numbers[:, 160:], numbers[60, 60:80] = 1, 2, 0
    (tmp_path / "values").mkdir()
    (tmp_path / "files").mkdir()
    for path in set(rows["path"]):
        stem = path.removesuffix(".png")
        Image.fromarray(numbers).save(tmp_path / "values" / f"{stem}.png")
        for number in (1, 2):
            mask = Image.fromarray((numbers == number).astype(np.uint8) * 255)
            mask.save(tmp_path / "files" / f"{stem}#{number}.png")
    rows[["path", "bbox", "encounter"]].to_csv(photos / "boxes.csv", index=False)
    expected, _ = _asked(two_gallery, tmp_path, "boxes", photos, "--metadata", photos / "boxes.csv")
    assert expected["query_id"].nunique() == 6
    for kind in ("values", "files"):
        found, _ = _asked(two_gallery, tmp_path, kind, photos, "--masks", tmp_path / kind)
        pd.testing.assert_frame_equal(found, expected)


def test_masks_beside_the_photographs_are_not_asked_about(
    side_by_side, two_gallery, tmp_path, capsys
):
    photos = tmp_path / "photos"
    rows = _photographs(side_by_side, photos)
    numbers = np.zeros((120, 320), np.uint8)
    numbers[:, :150], numbers[:, 170:] = 1, 2
    (photos / "masks").mkdir()
    for path in set(rows["path"]):
        Image.fromarray(numbers).save(photos / "masks" / path)
    whole, _ = _asked(two_gallery, tmp_path, "whole", photos)
    assert whole["query_id"].nunique() == 3
    assert "masks/ has masks" in capsys.readouterr().err
    each, _ = _asked(two_gallery, tmp_path, "each", photos, "--masks", photos / "masks")
    assert each["query_id"].nunique() == 6


def test_each_of_two_boxes_gets_the_mask_that_lies_in_it(
    side_by_side, two_gallery, tmp_path, capsys
):
    photos = tmp_path / "photos"
    rows = _photographs(side_by_side, photos)
    right_first = np.zeros((120, 320), np.uint8)
    right_first[20:100, 180:300], right_first[30:90, 10:150] = 1, 2
    (tmp_path / "masks").mkdir()
    for path in set(rows["path"]):
        Image.fromarray(right_first).save(tmp_path / "masks" / path)
    rows[["path", "bbox", "encounter"]].to_csv(photos / "boxes.csv", index=False)
    given = (photos, "--metadata", photos / "boxes.csv", "--masks", tmp_path / "masks")
    _, shown = _asked(two_gallery, tmp_path, "both", *given)
    shown = shown[shown["side"] == "query"]
    assert len(shown) == 6
    for bbox, mask in zip(shown["bbox"], shown["mask"], strict=True):
        left = json.loads(bbox)[0] == 0
        assert coco.area(json.loads(mask)) == (60 * 140 if left else 80 * 120)
        assert coco.toBbox(json.loads(mask))[0] == (10 if left else 180)
    one = np.zeros((120, 320), np.uint8)
    one[:, 150:190] = 1
    one[:, 290:320] = 2
    for path in set(rows["path"]):
        Image.fromarray(one).save(tmp_path / "masks" / path)
    again = ["identify", *map(str, given), "--gallery", str(two_gallery), f"output.root={tmp_path}"]
    assert main(again) == 1
    assert "lies in the box [0, 0, 160, 120]" in capsys.readouterr().err


def test_a_visit_of_two_animals_is_answered_for_each_alone(side_by_side, tmp_path):
    """Truth: the mean over the animal's own photographs, from the probe's ranking."""
    folder = tmp_path / "visits"
    shutil.copytree(side_by_side / "both", folder)
    rows = pd.read_csv(folder / "metadata.csv")
    late = rows["path"].str.contains("-[23].png")
    rows["split-time_closed"] = np.where(late, "test", "train")
    rows["encounter"] = rows["path"].str.replace("-[23].png", "-late", regex=True)
    rows = rows.drop(columns="image_id")
    rows.to_csv(folder / "metadata.csv", index=False)
    assert main(["probe", *_keys(folder, tmp_path), "output.run_id=r"]) == 0
    run = tmp_path / "benchmark_runs" / "r"
    pooled = pd.read_parquet(run / "encounters.parquet")
    assert len(pooled) == 6
    assert (pooled["photos"] == 2).all()
    assert pooled["encounter"].value_counts().tolist() == [2, 2, 2]
    name_of = rows.assign(image_id=_ids(rows)).set_index("image_id")
    ranked = pd.read_parquet(run / "rankings.parquet")
    ranked["animal"] = ranked["gallery_id"].map(name_of["unique_name"])
    ranked["of"] = ranked["query_id"].map(name_of["unique_name"])
    best = ranked.groupby(["of", "query_id", "animal"])["score"].max()
    mean = best.groupby(["of", "animal"]).mean()
    leads = ranked[ranked["rank"] == 1].groupby("of")["animal"].agg(set)
    for row in pooled.itertuples():
        mine = mean[row.identity]
        assert row.leader == mine[mine.index.isin(leads[row.identity])].idxmax()
        assert row.score == pytest.approx(mine[row.leader])


def _ids(rows):
    """Left is 1, right is 2."""
    left = rows["bbox"].map(json.loads).str[0] == 0
    return rows["path"] + np.where(left, "#1", "#2")


def test_turned_boxes_are_probed_and_identified_as_the_animals_upright(
    side_by_side, turned, tmp_path
):
    """Truth: the animals before they were laid on their sides, as files of their own."""
    keys = ["dataset.crop=auto", "benchmark.open_set.queries=12"]
    ranked = []
    for folder in (turned, side_by_side / "cut"):
        name = folder.name
        mine = [*_keys(folder, tmp_path), *keys]
        assert main(["probe", *mine[:-1], f"output.run_id={name}"]) == 0
        ranked.append(pd.read_parquet(tmp_path / "benchmark_runs" / name / "rankings.parquet"))
        gallery = tmp_path / f"g-{name}"
        assert main(["gallery", "build", "--out", str(gallery), "--split", "train", *mine]) == 0
        rows = pd.read_csv(folder / "metadata.csv")
        rows = rows[rows["split-time_closed"] == "test"].drop(columns=["unique_name", "image_id"])
        card = tmp_path / f"card-{name}"
        card.mkdir()
        for path in set(rows["path"]):
            (card / path).write_bytes((folder / path).read_bytes())
        rows.to_csv(card / "boxes.csv", index=False)
        asked, _ = _asked(gallery, tmp_path, name, card, "--metadata", card / "boxes.csv")
        ranked.append(asked.replace(r"\.png$", "", regex=True))
    for ours, theirs in ((ranked[0], ranked[2]), (ranked[1], ranked[3])):
        both = ours.merge(theirs, on=["query_id", "gallery_id"], suffixes=("", "_upright"))
        assert len(both) > 60
        np.testing.assert_allclose(both["score"], both["score_upright"], atol=0.01)
    assert main(["report", str(tmp_path / "identifications" / "turned")]) == 0


@pytest.mark.parametrize("masks", ["filter", "none"])
def test_keypoints_lie_in_the_box_also_where_no_column_has_masks(side_by_side, tmp_path, masks):
    """By hand: with a margin of half of 160 pixels the crop is 240 wide, a third of it margin."""
    keys = ["benchmark.method=local_lightglue", "benchmark.local_top_k=48",
            "benchmark.local_size=160", "benchmark.candidate_k=3", "benchmark.keep_matches=3",
            "dataset.mask_col=null", f"benchmark.local_masks={masks}"]  # fmt: skip
    keys = [*_keys(side_by_side / "both", tmp_path), *keys, "dataset.crop_margin=0.5"]
    assert main(["probe", *keys, "output.run_id=r"]) == 0
    rows = pd.read_parquet(tmp_path / "benchmark_runs" / "r" / "matches.parquet")
    in_margin = 0
    for side in ("query", "gallery"):
        for image_id, xy, wh in zip(
            rows[f"{side}_id"], rows[f"{side}_xy"], rows[f"{side}_wh_px"], strict=True
        ):
            share = np.ravel(xy)[::2] / wh[0]
            pixel = 1 / wh[0]  # one that the box covers by half counts
            first = image_id.endswith("#1")
            beyond = share > 2 / 3 + pixel if first else share < 1 / 3 - pixel
            in_margin += int(beyond.sum())
    assert (in_margin == 0) == (masks == "filter")


def test_animals_of_one_photograph_are_never_one_group():
    pair_P2 = np.array([[0, 1], [0, 2], [1, 2]])
    sure = np.ones(3)
    ((_, free),) = clusters_at_cuts(np.arange(3), pair_P2, sure, [0.5])
    ((_, apart),) = clusters_at_cuts(np.arange(3), pair_P2, sure, [0.5], np.array([7, 7, 8]))
    assert free.tolist() == [0, 0, 0]
    assert apart.tolist() == [0, 1, 0]
