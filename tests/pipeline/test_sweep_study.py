"""The trials of a sweep: drawn from seeds, stopped by rule, and remembered in a file."""

import json

import pytest

from exreid.config.space import parse_space
from exreid.config.sweep import TuneConfig
from exreid.errors import RunError
from exreid.pipeline.sweep_study import SweepStudy

SPACE = {"optimizer.lr": {"loguniform": [0.001, 0.1]}, "loss.scale": {"choice": [16, 64]}}
BASE = {"optimizer.lr": 0.01, "loss.scale": 64.0}


def _study(file, *, samples=12, space=SPACE, base=BASE, seed=0, **tune):
    return SweepStudy(
        parse_space(space),
        TuneConfig(**tune),
        samples=samples,
        seed=seed,
        base_values=base,
        file=file / "sweep.json",
    )


def _score(trial):
    values = {**BASE, **trial.values}
    return 1 - abs(values["optimizer.lr"] - 0.03) + (values["loss.scale"] == 16) / 10


def _finish(study, trial):
    study.tell(trial, "completed", score=_score(trial), seconds=1.0, error=None)


def _run(study, stop_after=None):
    while (trial := study.ask()) is not None:
        if stop_after == trial.number:
            return
        _finish(study, trial)


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
    """Looks after epochs 1 and 3. By hand: while fewer than three came to a look, the best of them
    goes on; then the best of three, and of six the best two."""
    study = _study(tmp_path, reduction_factor=3)
    trials = [study.ask() for _ in range(7)]
    assert trials[0].baseline
    first = [0.1, 0.5, 0.4, 0.6, 0.3, 0.55, 0.2]
    stops = [study.report(t, 1, s, last=False) for t, s in zip(trials, first, strict=True)]
    #        baseline; best of 2; 2nd of 3; best of 4; 4th of 5; 2nd of 6; 6th of 7
    assert stops == [False, False, True, False, True, False, True]
    assert not study.report(trials[3], 2, 0.1, last=False), "no look after epoch 2"
    assert not study.report(trials[0], 3, 0.1, last=False), "the baseline"
    assert not study.report(trials[3], 3, 0.7, last=False)
    assert study.report(trials[1], 3, 0.6, last=False)
    assert not study.report(trials[5], 3, 0.6, last=True), "it is done anyway"


def test_an_interrupted_trial_keeps_its_looks(tmp_path):
    study = _study(tmp_path, baseline=False)
    best, worse = study.ask(), study.ask()
    assert not study.report(best, 1, 0.5, last=False)
    study = _study(tmp_path, baseline=False)
    best, worse = study.ask(), study.ask()
    assert (best.number, best.scores, worse.number) == (0, {1: 0.5}, 1)
    assert study.report(worse, 1, 0.4, last=False), "it is compared with what came before"
    study.tell(worse, "stopped", score=0.4, seconds=2.0, error=None)
    study = _study(tmp_path, baseline=False)
    assert study.ask().number == 0
    third = study.ask()
    assert study.report(third, 1, 0.45, last=False)


def test_a_grid_and_a_failed_trial(tmp_path):
    space = {"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y"]}}
    study = _study(tmp_path, samples=4, space=space, base={"a": 1, "b": "x"}, search="grid")
    for number, values in enumerate([(1, "x"), (1, "y"), (2, "x"), (2, "y")]):
        trial = study.ask()
        assert tuple(trial.values.values()) == values
        state = "failed" if number == 1 else "completed"
        score = None if number == 1 else number / 10
        study.tell(trial, state, score=score, seconds=0, error="why" if number == 1 else None)
        study = _study(tmp_path, samples=4, space=space, base={"a": 1, "b": "x"}, search="grid")
    assert study.ask() is None
    assert study.best.number == 3
    assert study.trials[1].error == "why"


def test_a_sweep_file_that_is_broken_is_named(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(RunError, match=r"sweep\.json: cannot be read.*output\.run_id"):
        _study(tmp_path)
