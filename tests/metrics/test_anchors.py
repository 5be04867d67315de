"""Published figures beside ours: the right figures, on the right split, and nothing made up."""

import numpy as np
import pandas as pd
import pytest

import exreid
from benchmarks._anchors import Row, anchors, show
from exreid.config.public import public_set
from exreid.data.synthetic import METADATA_FILE
from exreid.errors import ConfigError

SMALL = ["model.type=efficientnet-lite0", "ray.num_actors=0", "model.batch_size=8"]


@pytest.fixture(scope="module")
def cosine(few, tmp_path_factory):
    out = tmp_path_factory.mktemp("anchors")
    return anchors("czechlynx-v2", str(few), str(out), methods=["cosine"], overrides=SMALL)


def test_ours_is_the_nearest_vector_on_the_published_split(cosine, few):
    small = {"dataset.root": str(few), "model.type": "efficientnet-lite0", "ray.num_actors": 0}
    made = exreid.probe(keys=public_set("czechlynx-v2").published[0].keys | small)
    table = pd.read_csv(few / METADATA_FILE).set_index("path")
    ids = list(made.embeddings.image_ids)
    name_N = table.loc[ids, "unique_name"].to_numpy()
    query_N = (table.loc[ids, "split-time_closed"] == "test").to_numpy()
    vectors_ND = made.embeddings.vectors_ND.astype(np.float64)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    nearest_Q = (vectors_ND[query_N] @ vectors_ND[~query_N].T).argmax(1)
    right_Q = name_N[~query_N][nearest_Q] == name_N[query_N]
    (top_1,) = [row for row in cosine if row.metric == "top_1"]
    assert top_1.ours == pytest.approx(right_Q.mean())
    assert top_1.published == 0.162194
    assert top_1.interval[0] <= top_1.ours <= top_1.interval[1]


def test_each_published_figure_is_shown_with_its_source_run_or_not(cosine, capsys):
    published = public_set("czechlynx-v2").published
    show(cosine, published, changed=SMALL)
    out = " ".join(capsys.readouterr().out.split())
    for line in published:
        assert line.method in out
        assert f"Source: {line.source}" in out
        for value in line.metrics.values():
            assert f"{100 * value:.1f} %" in out
    assert "Not as published: model.type=efficientnet-lite0" in out


def test_a_published_figure_lies_in_or_beside_the_interval():
    places = [Row("m", "top_1", x, 0.5, (0.4, 0.6)).place for x in (0.3, 0.5, 0.7)]
    assert places == ["below", "inside", "above"]


@pytest.mark.parametrize("preset", ["dogfacenet", "seaturtleid2022"])
def test_a_set_without_a_comparable_figure_is_an_error(preset, tmp_path):
    with pytest.raises(ConfigError, match=r"no published figure .* There are some for czechlynx"):
        anchors(preset, str(tmp_path), str(tmp_path))
