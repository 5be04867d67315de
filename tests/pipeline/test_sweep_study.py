"""The trials of a sweep: drawn from seeds, stopped by rule, and remembered in a file."""

import json

import pytest

from exreid.config.sweep import TuneConfig
from exreid.errors import RunError
from exreid.pipeline.sweep import Outcome, SweepPlan, SweepStudy

SPACE = {"optimizer.lr": {"loguniform": [0.001, 0.1]}, "loss.scale": {"choice": [16, 64]}}
BASE = {"optimizer.lr": 0.01, "loss.scale": 64.0}


def _study(folder, *, samples=12, space=SPACE, base=BASE, seed=0, **tune):
    tune = {"num_samples": samples, "space": space, **tune}
    return SweepStudy(SweepPlan(TuneConfig(**tune), seed, base, folder / "sweep.json"))


def _score(trial):
    values = {**BASE, **trial.values}
    return 1 - abs(values["optimizer.lr"] - 0.03) + (values["loss.scale"] == 16) / 10


def _run(study, stop_after=None):
    for number in study.unfinished:
        trial = study.begin(number)
        if stop_after == number:
            return
        study.end(number, Outcome("completed", _score(trial)))


@pytest.mark.parametrize("search", ["optuna", "random"])
def test_a_seed_draws_the_same_values_and_an_interrupted_sweep_goes_on_as_if_it_had_not(
    tmp_path, search
):
    for name in "whole", "again", "cut", "other":
        (tmp_path / name).mkdir()
    whole = _study(tmp_path / "whole", search=search)
    _run(whole)
    again = _study(tmp_path / "again", search=search)
    _run(again)
    assert [trial.values for trial in again.trials] == [trial.values for trial in whole.trials]
    _run(_study(tmp_path / "cut", search=search), stop_after=7)
    cut = _study(tmp_path / "cut", search=search)
    assert [trial.state for trial in cut.trials] == ["completed"] * 7 + ["running"]
    finished = [trial.seconds for trial in cut.trials[:7]]
    _run(cut)
    assert [trial.values for trial in cut.trials] == [trial.values for trial in whole.trials]
    assert [trial.seconds for trial in cut.trials[:7]] == finished, "not repeated"
    other = _study(tmp_path / "other", search=search, seed=1)
    _run(other)
    assert other.trials[1].values != whole.trials[1].values
    assert other.trials[0].values == whole.trials[0].values == {**BASE, "loss.scale": 64}


def test_the_optuna_search_learns(tmp_path):
    for name in "optuna", "random":
        (tmp_path / name).mkdir()
    late = {}
    for search in ("optuna", "random"):
        study = _study(tmp_path / search, samples=40, search=search)
        _run(study)
        late[search] = sum(_score(trial) for trial in study.trials[20:]) / 20
    assert late["optuna"] > late["random"] + 0.02


def test_values_stay_in_their_distributions(tmp_path):
    space = {
        "a": {"quniform": [0.5, 1.5, 0.25]},
        "b": {"qrandint": [2, 8, 3]},
        "c": {"lograndint": [1, 9]},
        "d": {"choice": [[1], [1, 5], None]},
    }
    study = _study(tmp_path, samples=30, space=space, base=dict.fromkeys("abcd"), search="random")
    _run(study)
    seen = {key: {json.dumps(trial.values[key]) for trial in study.trials} for key in space}
    assert seen["a"] == {"0.5", "0.75", "1.0", "1.25", "1.5"}
    assert seen["b"] == {"2", "5", "8"}
    assert seen["c"] <= {str(number) for number in range(1, 10)}
    assert len(seen["c"]) > 4
    assert seen["d"] == {"[1]", "[1, 5]", "null"}
    assert not any(trial.baseline for trial in study.trials), "the base lies outside"


def test_asha_lets_the_best_third_go_on_and_never_stops_the_baseline(tmp_path):
    """Rungs after epochs 1 and 3. By hand: while fewer than three came to a rung, the best of them
    goes on; then the best of three, and of six the best two."""
    study = _study(tmp_path, reduction_factor=3)
    assert [study.begin(number).baseline for number in range(7)] == [True, *[False] * 6]
    first = [0.1, 0.5, 0.4, 0.6, 0.3, 0.55, 0.2]
    stops = [study.report(number, 1, score) for number, score in enumerate(first)]
    #        baseline; best of 2; 2nd of 3; best of 4; 4th of 5; 2nd of 6; 6th of 7
    assert stops == [False, False, True, False, True, False, True]
    assert not study.report(3, 2, 0.1), "no rung after epoch 2"
    assert not study.report(0, 3, 0.1), "the baseline"
    assert not study.report(3, 3, 0.7)
    assert study.report(1, 3, 0.6)


def test_an_interrupted_trial_keeps_its_rungs(tmp_path):
    study = _study(tmp_path, baseline=False)
    assert study.begin(1).number == 1
    assert [trial.number for trial in study.trials] == [0, 1], "drawn in their order"
    assert not study.report(0, 1, 0.5)
    study = _study(tmp_path, baseline=False)
    assert study.unfinished[:3] == [0, 1, 2]
    assert study.begin(0).scores == {1: 0.5}
    study.begin(1)
    assert study.report(1, 1, 0.4), "it is compared with what came before"
    assert not study.report(1, 1, 0.4), "an epoch counts once"
    study.end(1, Outcome("stopped", 0.4, {1: 0.4}))
    study = _study(tmp_path, baseline=False)
    assert study.unfinished[:2] == [0, 2]
    study.begin(2)
    assert study.report(2, 1, 0.45)


def test_epochs_that_were_not_reported_count_once_the_trial_has_ended(tmp_path):
    study = _study(tmp_path, baseline=False)
    for number in (0, 1):
        study.begin(number)
    study.end(0, Outcome("completed", 0.5, {1: 0.3, 2: 0.5}))
    assert study.trials[0].scores == {1: 0.3, 2: 0.5}
    assert study.report(1, 1, 0.2), "worse than 0.3 after the same epoch"
    study.end(3, Outcome("failed", error="its process died before it began"))
    assert study.unfinished[:3] == [1, 2, 4]


def test_a_grid_and_a_failed_trial(tmp_path):
    space = {"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y"]}}
    options = {"samples": None, "space": space, "base": {"a": 1, "b": "x"}, "search": "grid"}
    for number, values in enumerate([(1, "x"), (1, "y"), (2, "x"), (2, "y")]):
        study = _study(tmp_path, **options)
        assert tuple(study.begin(number).values.values()) == values
        failed = Outcome("failed", error="why")
        study.end(number, failed if number == 1 else Outcome("completed", number / 10))
    study = _study(tmp_path, **options)
    assert study.unfinished == []
    assert study.best.number == 3
    assert study.trials[1].error == "why"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"trials": [{"number": "one"}]}'])
def test_a_sweep_file_that_is_broken_is_named(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(RunError, match=r"(?s)sweep\.json: cannot be read.*output\.run_id"):
        _study(tmp_path)
