"""The config tree: strict, explained, and the same when written and read again."""

import pytest
from pydantic import ValidationError

from exreid.config.io import describe_keys, fingerprint, load_config, to_yaml
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "probe.yaml"
    file.write_text("dataset: {root: here, query_split_value: 1}\nbenchmark: {cache: off}\n")
    config = load_config(ProbeConfig, file, ["dataset.root=there", "benchmark.top_k=[1,20]"])
    assert config.dataset.root == "there"
    assert config.dataset.query_split_value == "1"  # YAML's number is a cell's text
    assert config.benchmark.cache == "off"  # YAML's boolean is the word that was typed
    assert config.benchmark.top_k == (1, 20)


def test_what_is_written_reads_back_the_same(tmp_path):
    config = load_config(ProbeConfig, None, ["dataset.encounter_cols=[source,encounter]"])
    file = tmp_path / "snapshot.yaml"
    file.write_text(to_yaml(config))
    assert load_config(ProbeConfig, file) == config


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("dataset.label_co=x", "dataset.label_co: unknown key. Did you mean dataset.label_col"),
        ("label_col=x", "Did you mean dataset.label_col?"),
        ("train.epochs=3", "Known here: dataset, model"),
        ("benchmark.method=cosin", "Did you mean 'cosine'?"),
        ("dataset.image_size=abc", "dataset.image_size: Input should be a valid integer"),
        ("dataset.image_size=-3", "dataset.image_size: Input should be greater than 0"),
        ("seed=true", "seed: Input should be a valid integer"),
        ("benchmark.exclude=encounter", "needs dataset.encounter_cols"),
        ("output.run_id=../up", "output.run_id"),
        ("nonsense", "write dotted.key=value"),
    ],
)
def test_a_wrong_key_or_value_is_explained(override, says):
    with pytest.raises(ConfigError) as error:
        load_config(ProbeConfig, None, [override])
    assert says in str(error.value)


def test_all_wrong_keys_are_named_at_once():
    with pytest.raises(ConfigError) as error:
        load_config(ProbeConfig, None, ["dataset.rot=x", "model.batch_size=0"])
    assert "dataset.rot" in str(error.value)
    assert "model.batch_size" in str(error.value)


@pytest.mark.parametrize("content", ["[1, 2]", "dataset: [", ""])
def test_a_file_that_is_no_config(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    if content:
        with pytest.raises(ConfigError, match="bad.yaml"):
            load_config(ProbeConfig, file)
    else:
        assert load_config(ProbeConfig, file) == ProbeConfig()


def test_the_config_cannot_change():
    with pytest.raises(ValidationError):
        ProbeConfig().seed = 3


def test_the_fingerprint_follows_what_changes_numbers_and_nothing_else():
    plain = fingerprint(ProbeConfig())
    moved = load_config(ProbeConfig, None, ["output.root=/tmp/x", "ray.num_actors=3"])
    masked = load_config(ProbeConfig, None, ["dataset.no_background=true"])
    assert fingerprint(moved) == plain
    assert fingerprint(masked) != plain


def test_each_key_has_a_meaning():
    undocumented = [name for name, _, _, meaning in describe_keys(ProbeConfig) if not meaning]
    assert undocumented == []
