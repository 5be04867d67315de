"""A sweep's search space is checked against the config before anything starts."""

import pytest

from exreid.cli import main
from exreid.config.sweep import ProbeSweepConfig, load_sweep
from exreid.errors import ConfigError

PROBE = ["tune.run=probe", "tune.search=grid"]


def _space(text, *more):
    return load_sweep(None, [f"tune.space={text}", *more])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{optimizer.lrr: {uniform: [0.1, 0.2]}}", "optimizer.lrr: unknown key. Did you mean op"),
        ("{lr: {uniform: [0.1, 0.2]}}", "lr: unknown key. Did you mean optimizer.lr?"),
        ("{optimizer: {choice: [1, 2]}}", "optimizer: unknown key. It is a block of optimizer.typ"),
        (
            "{optimizer.lr: {unifrom: [0.1, 0.2]}}",
            "optimizer.lr.unifrom: unknown distribution. Did you mean uniform?",
        ),
        ("{optimizer.lr: 0.1}", "optimizer.lr: write one distribution"),
        ("{optimizer.lr: {uniform: [0.2, 0.1]}}", "low 0.2 is not below high 0.1"),
        ("{optimizer.lr: {uniform: [0.1]}}", r"takes [low, high]; it is [0.1]"),
        ("{optimizer.lr: {quniform: [0.1, 0.2]}}", r"takes [low, high, step]"),
        ("{optimizer.lr: {quniform: [0.1, 0.2, 5]}}", "step 5 does not fit"),
        ("{optimizer.lr: {loguniform: [0, 1]}}", "starts above 0"),
        ("{optimizer.lr: {uniform: [a, b]}}", "takes numbers"),
        ("{train.epochs: {randint: [1.5, 3]}}", "takes whole numbers"),
        ("{optimizer.lr: {uniform: [-1, 1]}}", "optimizer.lr=-1.0 a trial's config is not valid"),
        ("{loss.margin_rad: {uniform: [0, 4]}}", "loss.margin_rad: Input should be less than 3.1"),
        ("{train.epochs: {uniform: [2, 8]}}", "train.epochs: Input should be a valid integer"),
        ("{loss.type: {choice: [arcface, arcfase]}}", "Did you mean 'arcface'?"),
        ("{loss.scale: {choice: []}}", "takes a list"),
        ("{loss.scale: {choice: [16, 16]}}", "has a value twice"),
        ("{loss.scale: {grid: [16, 32]}}", "grid and tune.search=optuna do not go together"),
        ("{seed: {randint: [0, 9]}}", "seed says what is held out"),
        ("{dataset.root: {choice: [a, b]}}", "Of dataset, only image_size"),
        ("{output.root: {choice: [a, b]}}", "output says where trials write"),
        ("{}", "tune.space is empty"),
    ],
)
def test_a_wrong_space_is_explained(text, says):
    with pytest.raises(ConfigError) as error:
        _space(text)
    assert says in str(error.value)


def test_keys_that_do_not_go_together_are_found_before_a_trial_meets_them():
    text = "{train.epochs: {randint: [5, 30]}, scheduler.epochs: {randint: [20, 40]}}"
    with pytest.raises(ConfigError, match=r"train.epochs=30, scheduler.epochs=20 a trial's config"):
        _space(text, "scheduler.epochs=30")


def test_keys_may_be_dotted_or_nested_and_an_override_takes_a_distributions_place(tmp_path):
    file = tmp_path / "tune.yaml"
    file.write_text(
        "tune: {space: {optimizer.lr: {loguniform: [1e-4, 1e-2]}, loss: {scale: {choice: [8]}}}}"
    )
    config = load_sweep(file, ["tune.space.optimizer.lr={uniform: [0.1, 0.2]}", "seed=3"])
    space = config.tune.distributions
    assert list(space) == ["optimizer.lr", "loss.scale"]
    assert (space["optimizer.lr"].kind, space["optimizer.lr"].numbers) == ("uniform", (0.1, 0.2))
    assert space["loss.scale"].choices == (8,)
    assert config.seed == 3


def test_a_grid_is_every_combination_once():
    config = _space("{benchmark.top_k: {grid: [[1], [1, 5]]}, model.dtype: {grid: [fp32]}}", *PROBE)
    assert isinstance(config, ProbeSweepConfig)
    assert config.tune.trial_count == 2
    with pytest.raises(ConfigError, match="the grid has 2 combinations"):
        _space("{benchmark.top_k: {grid: [[1], [1, 5]]}}", *PROBE, "tune.num_samples=3")
    with pytest.raises(ConfigError, match="train.epochs: unknown key"):
        _space("{train.epochs: {grid: [1]}}", *PROBE)


def test_trials_are_not_judged_on_the_test():
    text = "{optimizer.lr: {uniform: [0.1, 0.2]}}"
    with pytest.raises(ConfigError, match=r"judges trials on the split 'test'.*tune.test=false"):
        _space(text, "validation.source=split")
    assert not _space(text, "validation.source=split", "tune.test=false").tune.test
    assert _space(text, "validation.source=split", "dataset.val_split_value=val").tune.test


def test_the_command_checks_before_it_starts_and_prints_either_mode(capsys, tmp_path):
    assert main(["tune", "tune.space.optimizer.lr={uniform: [1]}"]) == 2
    assert "tune.space.optimizer.lr" in capsys.readouterr().err.replace("\n", " ")
    assert main(["tune", "tune.metric=mAPP", "tune.space.loss.scale={choice: [1]}"]) == 2
    assert "'mAP'" in capsys.readouterr().err.replace("\n", " ")
    assert main(["tune", *PROBE, "tune.space.seed={grid: [1]}"]) == 2
    space = "tune.space.model.dtype={grid: [fp32, bf16]}"
    assert main(["tune", *PROBE, space, "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "benchmark:" in printed
    (tmp_path / "again.yaml").write_text(printed)
    assert load_sweep(tmp_path / "again.yaml") == load_sweep(None, [*PROBE, space])
