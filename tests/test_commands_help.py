"""What the command line says of itself, and settings to begin with."""

import pytest

from exreid.cli import COMMANDS, main
from exreid.config.io import PRESETS, load_config
from exreid.config.probe import ProbeConfig, gallery_config


@pytest.mark.parametrize("words", [[], ["help"], ["--help"]])
def test_the_overview_names_each_command_once(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines if line.startswith("  ")) == sorted(COMMANDS)
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)


def test_a_mistyped_command_is_answered_with_the_right_one(capsys):
    assert main(["prob", "dataset.root=x"]) == 2
    assert "Did you mean exreid probe?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("probe --presett quick", "--preset"),
        ("probe --preset quik", "quick"),
        ("gallery buid lynx", "build"),
        ("identify card --galery=g", "--gallery"),
        ("completion bsh", "bash"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_right_one(words, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Did you mean {meant}? exreid {words.split()[0]} --help" in line


def test_a_mistyped_kind_of_file_is_answered_with_the_right_one(tmp_path, capsys):
    assert main(["import", "megadetektor", "x.json", "--out", str(tmp_path / "x.parquet")]) == 2
    assert "Did you mean megadetector?" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_help_of_a_command_is_one_screen(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) <= 60


def test_keys_are_listed_by_a_pattern(capsys):
    with pytest.raises(SystemExit):
        main(["probe", "--help-keys", "benchmark.fast.*"])
    out = capsys.readouterr().out
    assert "benchmark.fast.look_layers" in out
    assert "dataset.root" not in out
    assert "%%" not in out


def test_a_preset_lies_below_the_file_and_the_overrides(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("benchmark: {candidate_k: 7, local_top_k: 99}\n")
    config = load_config(ProbeConfig, file, ["benchmark.local_top_k=128"], preset="quick")
    benchmark = config.benchmark
    assert (benchmark.method, benchmark.candidate_k, benchmark.local_top_k) == (
        *("local_lightglue", 7, 128),
    )
    for name in PRESETS:
        for method in ("cosine", "local_index", "local_lightglue", "wildfusion"):
            other = load_config(ProbeConfig, None, [f"benchmark.method={method}"], preset=name)
            searches = method == "local_index" or (method != "cosine" and name != "published")
            assert other.benchmark.has_index == searches


def test_published_settings_are_exact_and_whole():
    config = load_config(ProbeConfig, preset="published")
    assert config.benchmark.precision == "exact"
    assert config.model.dtype == "fp32"
    assert not config.dataset.reduced_decode


def test_a_gallery_without_a_method_tells_animals_apart_by_their_coats(tmp_path):
    quick = load_config(ProbeConfig, None, ["benchmark.open_set.enabled=true"], preset="quick")
    assert gallery_config() == gallery_config(None, ["seed=0"]) == quick
    file = tmp_path / "own.yaml"
    file.write_text("seed: 3\n")
    for config in (
        gallery_config(file),
        gallery_config(None, ["benchmark.method=cosine"]),
        gallery_config(None, ["model.type=timm:test_vit"]),
    ):
        assert (config.benchmark.method, config.benchmark.open_set.enabled) == ("cosine", True)
    assert gallery_config(preset="accurate").benchmark.method == "wildfusion"
    off = gallery_config(None, ["benchmark.open_set.enabled=false"])
    assert (off.benchmark.method, off.benchmark.open_set.enabled) == ("local_lightglue", False)


def test_add_takes_no_preset(tmp_path, capsys):
    assert main(["gallery", "add", str(tmp_path), "--preset", "quick"]) in (1, 2)
    assert "exreid" in capsys.readouterr().err
