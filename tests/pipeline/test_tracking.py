"""What Weights & Biases is told: the config's words, and its own variables where there are none."""

import time

import pytest
import wandb

from exreid.config.probe import WandbConfig
from exreid.pipeline import tracking
from exreid.pipeline.tracking import Tracker
from tests.processes import until

VARIABLES = {
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": "leopards",
    "WANDB_NAME": "tonight",
    "WANDB_DIR": "elsewhere",
}


@pytest.fixture
def asked(monkeypatch):
    """What wandb.init was asked for."""
    found = {}
    monkeypatch.setattr(wandb, "init", lambda **options: found.update(options))
    for name in ("WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_TAGS", *VARIABLES):
        monkeypatch.delenv(name, raising=False)
    return found


def _start(tmp_path, **options):
    config = WandbConfig(enabled=True, **options)
    assert Tracker(config, run_id="r", folder=tmp_path, tree={}).on


def test_its_own_variables_stand_where_the_config_says_nothing(asked, monkeypatch, tmp_path):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    _start(tmp_path)
    # None is what wandb.init takes for "as the variable says".
    assert [asked[name] for name in ("mode", "entity", "group", "tags")] == [None] * 4
    assert (asked["project"], asked["name"], asked["dir"]) == ("leopards", "tonight", "elsewhere")


def test_the_configs_words_win(asked, monkeypatch, tmp_path):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    _start(tmp_path, mode="disabled", project="lynx", name="n", tags=("a",))
    named = [asked[name] for name in ("mode", "project", "name", "tags")]
    assert named == ["disabled", "lynx", "n", ["a"]]


def test_without_either_a_run_is_called_by_its_id(asked, tmp_path):
    _start(tmp_path)
    assert (asked["project"], asked["name"], asked["dir"]) == ("exreid", "r", str(tmp_path))


def test_a_failure_is_one_line_with_a_remedy(asked, monkeypatch, tmp_path, caplog):
    def unreachable(**unused):
        raise TimeoutError("no such host\nConsider increasing the timeout:\n  wandb.init(...)")

    monkeypatch.setattr(wandb, "init", unreachable)
    assert not Tracker(WandbConfig(enabled=True), run_id="r", folder=tmp_path, tree={}).on
    (record,) = caplog.records
    assert "(no such host)" in record.message
    assert "wandb.mode=offline" in record.message
    assert "\n" not in record.message


def test_a_start_that_waits_says_for_what_how_long_and_how_to_switch_it_off(
    asked, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(tracking, "SAY_AFTER_S", 0.5)
    monkeypatch.setenv("WANDB_BASE_URL", "http://nobody.invalid")
    _start(tmp_path)
    time.sleep(0.6)
    assert caplog.text == "", "it did not wait"

    def waits(**options):
        assert until(lambda: caplog.text)
        asked.update(options)

    monkeypatch.setattr(wandb, "init", waits)
    _start(tmp_path)
    (record,) = caplog.records
    for part in ("http://nobody.invalid", "90 s at most", "wandb.mode=offline"):
        assert part in record.getMessage()
    assert asked["settings"].init_timeout == 90


def test_where_the_run_is_or_how_to_send_it_is_said(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="exreid.watch")

    class Online:
        url, offline = "https://wandb.ai/lynx/runs/7", False

    monkeypatch.setattr(wandb, "init", lambda **unused: Online())
    _start(tmp_path)
    assert "Weights & Biases: https://wandb.ai/lynx/runs/7" in caplog.text
    monkeypatch.undo()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    config = WandbConfig(enabled=True, mode="offline")
    assert Tracker(config, run_id="r", folder=tmp_path, tree={}).finish({"top_1": 0.5})
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder}" in caplog.text
