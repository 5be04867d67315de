"""The linear classifier: scikit-learn's, ranked by exreid's rules; and what it refuses."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

import exreid
from exreid.cli import main
from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.data.synthetic import METADATA_FILE
from exreid.errors import ConfigError, MetadataError
from exreid.matching.classifier import fit_classifier
from exreid.records import RetrievalSide


def _drawn(random, counts):
    identity_N = np.repeat(np.arange(len(counts)) * 2, counts).astype(np.int32)
    centre_CD = random.standard_normal((len(counts), 6))
    vectors_ND = centre_CD[identity_N // 2] + random.standard_normal((len(identity_N), 6))
    return vectors_ND.astype(np.float32), identity_N


def _reference(vectors_ND):
    return normalize(vectors_ND.astype(np.float64))


def test_it_is_scikit_learns_balanced_logistic_regression():
    random = np.random.default_rng(5)
    vectors_ND, identity_N = _drawn(random, [40, 5, 12])
    asked_BD = random.standard_normal((9, 6)).astype(np.float32)
    made = fit_classifier(vectors_ND, identity_N)
    scaler = StandardScaler().fit(_reference(vectors_ND))
    theirs = LogisticRegression(class_weight="balanced", tol=1e-10, max_iter=10_000)
    theirs.fit(scaler.transform(_reference(vectors_ND)), identity_N)
    expected_BC = theirs.predict_log_proba(scaler.transform(_reference(asked_BD)))
    np.testing.assert_allclose(made.log_probabilities(asked_BD), expected_BC, atol=1e-4)
    assert made.identity_C.tolist() == theirs.classes_.tolist()


def test_images_rank_by_their_animal_and_then_by_their_position():
    random = np.random.default_rng(6)
    vectors_ND, identity_N = _drawn(random, [3, 2, 4])
    order = random.permutation(9)
    vectors_ND, identity_N = vectors_ND[order], identity_N[order]
    ids = tuple(map(str, range(9)))
    gallery = RetrievalSide(ids, np.arange(9), identity_N, np.full(9, -1, np.int32))
    queries = RetrievalSide(
        ("q",), np.array([9]), np.array([2], np.int32), np.array([-1], np.int32)
    )
    made = fit_classifier(vectors_ND, identity_N)
    asked_QD = vectors_ND[:1] + 0.1
    ranking = made.rank(asked_QD, queries, gallery, exclude="image", keep=9)
    log_C = made.log_probabilities(asked_QD)[0]
    best = made.identity_C[np.argsort(-log_C)]
    expected = [g for animal in best for g in range(9) if identity_N[g] == animal]
    assert ranking.candidate_index_QK[0].tolist() == expected


def test_a_probe_with_it_is_scikit_learns_accuracy(dataset):
    keys = {"dataset.root": str(dataset), "ray.num_actors": 0, "benchmark.method": "classifier"}
    made = exreid.probe(keys=keys)
    table = pd.read_csv(dataset / METADATA_FILE).set_index("path")
    ids = list(made.embeddings.image_ids)
    name_N = table.loc[ids, "unique_name"].to_numpy()
    query_N = (table.loc[ids, "split-time_closed"] == "test").to_numpy()
    vectors_ND = _reference(made.embeddings.vectors_ND)
    scaler = StandardScaler().fit(vectors_ND[~query_N])
    theirs = LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=10_000)
    theirs.fit(scaler.transform(vectors_ND[~query_N]), name_N[~query_N])
    right_Q = theirs.predict(scaler.transform(vectors_ND[query_N])) == name_N[query_N]
    assert made.result.metrics["top_1"] == pytest.approx(right_Q.mean())
    assert made.result.method == "classifier"


@pytest.mark.parametrize(
    "word",
    [
        *("benchmark.open_set.enabled=true", "benchmark.rerank.method=k_reciprocal"),
        *("benchmark.gate.flank=true", "dataset.query_split_value=train"),
    ],
)
def test_what_is_not_of_a_closed_set_is_refused(word):
    with pytest.raises(ConfigError, match="benchmark.method=classifier"):
        load_config(ProbeConfig, None, ["benchmark.method=classifier", word])


def test_galleries_and_discoveries_refuse_it(dataset, tmp_path, capsys):
    words = [str(dataset), "benchmark.method=classifier"]
    assert main(["gallery", "build", *words, "--out", str(tmp_path / "g")]) == 2
    assert "a baseline for probes" in capsys.readouterr().err
    assert main(["discover", *words, f"output.root={tmp_path}"]) == 2
    assert "needs animals with names" in capsys.readouterr().err


def test_one_animal_cannot_be_classified():
    with pytest.raises(MetadataError, match="two animals"):
        fit_classifier(np.ones((3, 2)), np.zeros(3, np.int32))
