"""What the text of a config means is for the key's type to say, and no text is a traceback."""

import time
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from exreid.config.io import leaf_keys, load_config, to_yaml
from exreid.config.probe import ProbeConfig
from exreid.config.sweep import load_sweep
from exreid.config.text import MOST_VALUES, to_yaml_text, tree_of_yaml
from exreid.config.training import FinetuneConfig
from exreid.errors import ConfigError

# What YAML 1.1 takes for something else than the word that stands there.
GUESSED = [
    *("007", "0012", "12:30", "yes", "no", "on", "off", "true", "null", "NULL", "1e5", "0x1F"),
    *("2023-01-10", "2024", "1_000", ".5", "NaN", "data #2", "a: b", "@x", "[1,", "{a", "!x", "&a"),
    *("*a", "- a", "'q'", '"q"', "%x", "`x", "|", ">", "? x", " x ", "= ", "\t", "a\nb", "key=b"),
]
TEXT_KEYS = ("dataset.root", "dataset.split_col", "dataset.query_split_value", "model.type")


def _get(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _file(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("key", TEXT_KEYS)
@pytest.mark.parametrize("text", GUESSED)
def test_an_override_of_a_text_key_is_its_text(key, text):
    assert _get(load_config(ProbeConfig, None, [f"{key}={text}"]), key) == text


@pytest.mark.parametrize(
    "text", ["007", "0012", "12:30", "yes", "true", "2023-01-10", "1e5", "1_0"]
)
def test_so_is_an_unquoted_word_of_a_file(tmp_path, text):
    file = _file(
        tmp_path,
        f"dataset:\n  root: {text}\n  train_split_value: {text}\n  date_col: {text}\n"
        f"  encounter_cols: [{text}, b]\n  unknown_identities:\n  - {text}\n  - null\n"
        f"output: {{run_id: {text}}}\n",
    )
    dataset = load_config(ProbeConfig, file, ["output.run_id=r"]).dataset
    assert (dataset.root, dataset.train_split_value, dataset.date_col) == (text, text, text)
    assert dataset.encounter_cols == (text, "b")
    assert dataset.unknown_identities == (text, "null")


def test_null_is_none_where_a_key_can_be_none_and_quotes_make_it_a_word(tmp_path):
    file = _file(tmp_path, "dataset: {mask_col: ~, date_col: 'null', viewpoint_col: }\nwandb:\n")
    config = load_config(ProbeConfig, file, ["model.checkpoint=null", "dataset.label_col=null"])
    assert config.dataset.mask_col is None
    assert config.dataset.viewpoint_col is None
    assert config.dataset.date_col == "null"
    assert config.model.checkpoint is None
    assert config.dataset.label_col == "null"
    assert config.wandb == ProbeConfig().wandb


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=0012", 12),
        ("model.batch_size=+8", 8),
        ("dataset.crop_margin=1e-1", 0.1),
        ("dataset.no_background=yes", True),
        ("dataset.no_background=off", False),
        ("dataset.fill_rgb=[1, 2, 007]", (1, 2, 7)),
        ("dataset.encounter_cols=[source, data #2]", ("source", "data #2")),
        ("benchmark.cache=false", "off"),
        ("benchmark.fusion.local_features=null", None),
    ],
)
def test_numbers_switches_and_lists_are_what_their_keys_take(override, value):
    found = override.partition("=")[0]
    if override.endswith("#2]"):  # a comment in YAML's own words
        with pytest.raises(ConfigError, match=r"dataset.encounter_cols: .*not valid YAML"):
            load_config(ProbeConfig, None, [override])
        return
    assert _get(load_config(ProbeConfig, None, [override]), found) == value


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=12:30", "train.epochs: Input should be a valid integer; it is '12:30'"),
        ("seed=@x", "seed: Input should be a valid integer; it is '@x'"),
        ("seed=99999999999999999999", "seed: 99999999999999999999 is out of range"),
        ("dataset.encounter_cols=source", "Write [source]"),
        ("dataset.encounter_cols=[1,", "dataset.encounter_cols: '[1,' is not valid YAML"),
        ("dataset.root=", "dataset.root= has no value"),
        ("dataset.mask_col=", "Write dataset.mask_col=null for none"),
        ("dataset=3", "dataset: is a block of keys"),
        ("dataset.root=${oc.env:AWS_SECRET_ACCESS_KEY}", "is not looked up"),
        ("dataset.root=data\udcff", "is not valid Unicode"),
        ("dataset.root=a\0b", "has a character 0 in it"),
        ("dataset.ro\udcffot=a", "is not valid Unicode"),
    ],
)
def test_what_cannot_be_meant_is_explained(override, says):
    with pytest.raises(ConfigError) as error:
        load_config(FinetuneConfig, None, [override])
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset: {root: a}\ndataset: {root: b}", "line 2: 'dataset' is given twice"),
        ("dataset: !!python/object/apply:os.system [ls]", "line 1: .*without a tag"),
        ("dataset: {root: '${oc.env:HOME}'}", r"line 1: dataset.root: \$\{oc.env:HOME\} is not"),
        ("dataset: {encounter_cols: ['${x}']}", "dataset.encounter_cols.0"),
        ("? [a]\n: 1", "a key is a word"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ('dataset: {root: "\\ud800"}', "is not valid Unicode"),
        ('dataset: {root: "\\UFFFFFFFF"}', "not valid YAML"),
        ("a: &a [*a]", "too much for a config"),
        ("[" * 5000, "not valid YAML: too many levels"),
        ("dataset: {<<: 3}", "takes a block"),
        ("x" * 2**21, "is over 1 MB"),
    ],
)
def test_a_file_that_cannot_be_meant_is_explained_by_its_line(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says) as error:
        load_config(ProbeConfig, _file(tmp_path, text))
    assert "config.yaml" in str(error.value)


def test_a_file_of_aliases_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    begun = time.process_time()
    with pytest.raises(ConfigError, match=f"over {MOST_VALUES} values"):
        load_config(ProbeConfig, _file(tmp_path, "\n".join(lines)))
    assert time.process_time() - begun < 10  # a bound against hanging, not a measurement


def test_a_file_that_is_not_there_says_what_should_be(tmp_path):
    for name, says in (("c.yaml", "Check --config"), ("config.snapshot.yaml", "a run's folder")):
        with pytest.raises(ConfigError, match=says):
            load_config(ProbeConfig, tmp_path / name)
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(ProbeConfig, tmp_path)


def test_anchors_and_merged_blocks_are_read(tmp_path):
    file = _file(
        tmp_path,
        "model: &m {type: 007, batch_size: 4}\n"
        "benchmark: {fusion: {models: [{<<: *m, batch_size: 8}, *m]}}\n",
    )
    config = load_config(ProbeConfig, file)
    assert [model.type for model in config.benchmark.fusion.models] == ["007", "007"]
    assert [model.batch_size for model in config.benchmark.fusion.models] == [8, 4]


def test_the_words_of_a_search_space_are_values_of_their_kind(tmp_path):
    space = "{train.amp: {choice: [off, bf16]}, loss.scale: {choice: [016, 1e1]}}"
    config = load_sweep(None, [f"tune.space={space}", "tune.scheduler=null"])
    assert config.tune.space["train.amp"] == {"choice": ["off", "bf16"]}
    assert config.tune.space["loss.scale"] == {"choice": [16, 10.0]}
    assert config.tune.scheduler == "none"
    file = _file(tmp_path, to_yaml(config))
    assert load_sweep(file) == config


@pytest.mark.parametrize(
    "key",
    [
        *("dataset.root", "dataset.metadata_file", "model.checkpoint", "output.root"),
        *("benchmark.cache", "benchmark.calibration.load", "train.resume_checkpoint"),
    ],
)
def test_a_path_may_begin_at_home(key, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/kim")
    model = FinetuneConfig if key.startswith("train") else ProbeConfig
    assert _get(load_config(model, None, [f"{key}=~/data"]), key) == "/home/kim/data"
    monkeypatch.setenv("HOME", "/elsewhere")
    config = load_config(model, None, [f"{key}=s3://bucket/~data"])
    assert _get(config, key) == "s3://bucket/~data"


ANY_TEXT = st.one_of(
    st.text(max_size=12),
    st.text(
        st.sampled_from("[]{}:,#&*!|>'\"%@`-?~ \n\t0123456789.eE+_abnulltruefalse"), max_size=12
    ),
    st.sampled_from(GUESSED),
)
KEYS = leaf_keys(FinetuneConfig)
ANY_KEY = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from([*FinetuneConfig.model_fields, "tune.space", "tune.space.loss.scale", "x.y"]),
    ANY_TEXT,
)


@settings(max_examples=600, deadline=None)
@given(ANY_KEY, ANY_TEXT)
def test_no_text_after_a_key_is_a_traceback(key, text):
    for load in (lambda o: load_config(FinetuneConfig, None, o), lambda o: load_sweep(None, o)):
        with suppress(ConfigError):
            load([f"{key}={text}"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TEXT_KEYS), st.text(min_size=1).filter(lambda text: "${" not in text))
def test_any_text_comes_through_an_override_and_a_snapshot(key, text):
    try:
        config = load_config(ProbeConfig, None, [f"{key}={text}"])
    except ConfigError as error:
        assert "Unicode" in str(error) or "character 0" in str(error)  # noqa: PT017
        return
    if not text.startswith("~"):
        assert _get(config, key) == text
    tree = tree_of_yaml(to_yaml(config), ProbeConfig, source="")
    assert tree == config.model_dump(mode="json")
    assert yaml.safe_load(to_yaml(config))["model"]["type"] == config.model.type


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), max_size=8)
    | st.sampled_from(GUESSED),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "yes", "1", "null", "<<"]), inside, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_what_is_written_of_any_type_reads_back(value):
    # Without a type, a key's text is read by YAML 1.2's rules; what is written is quoted for them.
    assert tree_of_yaml(to_yaml_text({"space": value}), ProbeConfig, source="") == {"space": value}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_file_is_a_traceback(tmp_path_factory, data):
    text = to_yaml(ProbeConfig()).encode()
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.binary(max_size=6)) + text[at + cut :]
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    file.write_bytes(text)
    with suppress(ConfigError):
        load_config(ProbeConfig, file)


def test_a_truth_value_as_text_stays_as_it_is_typed():
    config = load_config(ProbeConfig, None, ["dataset.query_split_value=TRUE"])
    assert config.dataset.query_split_value == "TRUE"
