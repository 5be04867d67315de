"""How long a run takes, said before: LightGlue's arithmetic against torch's own counter."""

import logging

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exreid.config.io import load_config
from exreid.config.probe import ProbeConfig
from exreid.matching.cascade import MakeMatcher
from exreid.matching.lightglue import MatchSettings
from exreid.pipeline import forecast
from exreid.pipeline.forecast import cpu_seconds, pair_operations, tell_forecast
from exreid.records import LocalFeatures


def _features(keypoints):
    random = np.random.default_rng(0)
    return LocalFeatures(
        random.random((2, keypoints, 2), dtype=np.float32) * 200,
        random.standard_normal((2, keypoints, 128)).astype(np.float16),
        np.full(2, keypoints, np.int32),
        np.full((2, 2), 200, np.int32),
    )


@pytest.mark.parametrize("settings", [MatchSettings(), MatchSettings(layers=3, keypoints=128)])
@pytest.mark.parametrize("keypoints", [64, 256])
def test_a_pairs_operations_are_those_that_torch_counts(settings, keypoints):
    features = _features(keypoints)
    matcher = MakeMatcher("aliked", settings, "cpu")()
    # The counter knows no fused attention on CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        matcher.score(features, features, np.array([[0, 1]], np.int32))
    counted = counter.get_total_flops()
    assert pair_operations(settings, keypoints) == pytest.approx(counted, rel=0.12)


def _config(*overrides, preset=None):
    return load_config(ProbeConfig, None, ["ray.num_actors=0", *overrides], preset=preset)


def test_what_is_asked_more_of_takes_longer():
    def seconds(*overrides):
        return cpu_seconds(_config(*overrides, preset="quick"), images=9, queries=3, gallery=6)

    assert seconds("benchmark.method=cosine") == pytest.approx(9 * 0.02)
    decided = seconds("benchmark.open_set.enabled=true")
    assert seconds("benchmark.method=cosine") < seconds() < decided
    assert decided < seconds("benchmark.open_set.enabled=true", "benchmark.precision=exact")
    assert seconds("model.type=miewid-msv3") is None


def test_minutes_are_told_once_for_the_cores_that_are_there(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="exreid.watch")
    monkeypatch.setattr(forecast.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(forecast, "cpu_seconds", lambda *_, **__: 2 * 60 * 90.0)
    tell_forecast(_config(), images=1200, queries=3, gallery=6)
    assert caplog.messages == [
        "1,200 photographs: at most about 1 h 30 min on 2 CPU cores, less for what is in the cache."
    ]
    caplog.clear()
    # Never less than it takes: 70 s are two minutes, and so are 50 s with the start of Ray.
    for actors, cpu_s, minutes in ((0, 140.0, 2), (0, 100.0, 1), (2, 100.0, 2)):
        monkeypatch.setattr(forecast, "cpu_seconds", lambda *_, spent_s=cpu_s, **__: spent_s)
        tell_forecast(_config(f"ray.num_actors={actors}"), images=9, queries=3, gallery=6)
        assert f"at most about {minutes} min" in caplog.messages[-1]
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tell_forecast(_config("ray.num_actors=2"), images=1200, queries=3, gallery=6)
    assert caplog.messages == []
