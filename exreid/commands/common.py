"""Shared by commands: arguments, and the table of metrics."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from rich.table import Table

from exreid.commands.terminal import OUT
from exreid.config.base import StrictModel
from exreid.config.io import PRESETS, describe_keys, load_config
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError
from exreid.records import Result
from exreid.storage.urls import is_remote


@dataclass(frozen=True)
class Command:
    """A command: a line of help, its arguments, and its function, which returns the exit code."""

    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the option or value that ``words`` probably
    meant."""

    def __init__(self, prog: str, text: str, words: Sequence[str] = ()) -> None:
        super().__init__(
            prog=prog,
            description=text,
            add_help=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.words = words

    def error(self, message: str) -> NoReturn:
        """Print the message and end the process with exit code 2."""
        options = list(self._option_string_actions)
        typed = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        unknown = [word for word in typed if not any(o.startswith(word) for o in options)]
        if unknown:
            message = f"there is no option {unknown[0]}"
            near = difflib.get_close_matches(unknown[0], options, n=1)
        else:
            wrong, _, choices = message.partition(" (choose from ")
            near = difflib.get_close_matches(
                wrong.rpartition("invalid choice: ")[2].strip("'"),
                re.findall(r"[\w-]+", choices),
                n=1,
            )
        meant = f" Did you mean {near[0]}?" if near else ""
        self.exit(2, f"exreid: {message}.{meant} {self.prog} --help says what it takes.\n")


BEFORE = "_before"
"""Ending of the metrics before the first epoch of a training."""
POSITIVE = "_with_positive"
"""Ending of the metrics over queries with an image of their animal in the gallery."""


def path(text: str) -> Path:
    """The type of arguments that are paths: the shell does not expand ``~`` in ``--out=~/x``, and a
    URL would become a folder called ``s3:``. ArgumentTypeError for a URL."""
    if is_remote(text) and not text.startswith("file://"):
        raise argparse.ArgumentTypeError(
            f"{text} is a URL, and this takes a path on this machine. Copy what is there with the "
            "storage's own tool, such as `aws s3 cp` or `gcloud storage cp`."
        )
    text = text.removeprefix("file://")
    return Path(os.path.expanduser(text))  # noqa: PTH111 - gives no error without a home


def named_path(text: str) -> Path:
    """As `path`, for a path among other words; ConfigError for a URL."""
    try:
        return path(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(str(error)) from error


def plain_arguments(parser: argparse.ArgumentParser) -> None:
    """Only --help."""
    parser.add_argument("-h", "--help", action="help", help="show this help")


def config_arguments(
    parser: argparse.ArgumentParser, model: type[StrictModel] = ProbeConfig
) -> None:
    """--config, --preset, --print-config, and dotted overrides of the keys of ``model``."""
    plain_arguments(parser)
    parser.set_defaults(config_model=model, load=partial(load_config, model), preset=None)
    parser.add_argument(
        "--help-keys", nargs="?", const="*", action=_KeysHelp, metavar="GLOB",
        help="list the config keys, such as 'benchmark.fast.*'",
    )  # fmt: skip
    parser.add_argument("--config", type=path, help="YAML file; without it, the defaults")
    if model is ProbeConfig:
        parser.add_argument("--preset", choices=PRESETS, help="settings to begin with")
    parser.add_argument("--print-config", action="store_true", help="print the config and stop")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="FOLDER|key=value",
        help="the data set's folder or table, and config keys",
    )


Config = TypeVar("Config", bound=StrictModel)


def config_of(options: argparse.Namespace, model: type[Config]) -> Config:
    """The config by the arguments of `config_arguments`."""
    overrides = data_overrides(options.overrides)
    return load_config(model, options.config, overrides, preset=options.preset)


def data_overrides(words: Sequence[str]) -> list[str]:
    """Overrides from words, one of which may be a data set's folder or table.

    >>> data_overrides(["seed=1", "."])
    ['dataset.root=.', 'seed=1']
    """
    # os.path, since a Path that is too long raises.
    named = [word for word in words if "=" not in word or os.path.exists(word)]  # noqa: PTH110
    overrides = [word for word in words if word not in named]
    if not named:
        return overrides
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)}: one folder is read at a time.")
    (word,) = named
    if is_remote(word):
        return [f"dataset.root={word}", *overrides]
    place = named_path(word)
    if place.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError(f"{word}: for a config file, write --config {word}.")
    if os.path.isdir(place):  # noqa: PTH112
        return [f"dataset.root={place}", *overrides]
    if os.path.isfile(place):  # noqa: PTH113
        return [f"dataset.root={place.parent}", f"dataset.metadata_file={place.name}", *overrides]
    raise ConfigError(f"{word}: no such folder or table. Keys are written key=value.")


@contextmanager
def features_kept(config: ProbeConfig) -> Iterator[None]:
    """For commands without a run folder: after an interrupt, the message says that the features
    made so far are in the cache, and that the same command continues from there."""
    from exreid.pipeline.inputs import cache_folder

    try:
        yield
    except KeyboardInterrupt as error:
        on = config.benchmark.cache != "off"
        error.in_cache = on and cache_folder(config).is_dir()  # type: ignore[attr-defined]
        raise


def answer_arguments(parser: argparse.ArgumentParser) -> None:
    """How answers about photographs are given, and whether models may be downloaded for them."""
    add = parser.add_argument
    add("--download", action="store_true",
        help="let models that are not on this machine be downloaded")  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of the table")
    add("--csv", type=path, help="also write the table to this file")
    add("--report", action="store_true", help="also draw the report's pages")


class _KeysHelp(argparse.Action):
    """Lists config keys; only on request, since the list of backbones takes time to load."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        OUT.print(
            _keys_text(parser.get_default("config_model"), str(values)),
            markup=False,
            soft_wrap=True,
        )
        parser.exit()


def _keys_text(model: type[StrictModel], glob: str) -> str:
    from exreid import plugins
    from exreid.models.backbones import BACKBONES

    keys = [key for key in describe_keys(model) if fnmatch(key[0], glob)]
    if not keys:
        raise ConfigError(f"--help-keys {glob}: no config key fits. Try '*{glob.strip('*')}*'.")
    lines = ["key  (type = default)"]
    for name, kind, default, meaning in keys:
        lines.append(f"  {name}  ({kind} = {default})\n      {meaning}")
    if any(name == "model.type" for name, *_ in keys):
        names = ", ".join([*BACKBONES, *plugins.plugin_names(plugins.BACKBONES)])
        lines.append(f"\nbackbones for model.type: {names}, timm:NAME, hf-hub:OWNER/NAME")
    return "\n".join(lines)


def show_result(result: Result) -> None:
    """The table of metrics, with intervals and counts."""
    table = Table(title=f"Method: {result.method}", title_justify="left", box=None, pad_edge=False)
    names = [name for name in result.metrics if not name.endswith(BEFORE)]
    ends = ["", BEFORE] if any(name.endswith(BEFORE) for name in result.metrics) else [""]
    names = [name for name in names if not _repeats(result, name, ends)]
    table.add_column("metric", overflow="fold")
    for end in ends:
        table.add_column("before" if end else "value", justify="right")
        table.add_column("95% interval", justify="right")
    for name in names:
        table.add_row(name, *(cell for end in ends for cell in _cells(result, name + end)))
    OUT.print(table)
    counts = [
        f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in result.counts.items()
        if value != {}
    ]
    if counts:
        OUT.print()
        OUT.print(_wrapped(counts), markup=False, soft_wrap=True)


def _repeats(result: Result, name: str, ends: list[str]) -> bool:
    """Whether it is a metric over queries with an image of their animal, and each has one."""
    whole = name.removesuffix(POSITIVE)
    return whole != name and all(
        result.metrics.get(name + end) == result.metrics.get(whole + end) for end in ends
    )


def _wrapped(counts: list[str]) -> str:
    """Counts in lines of the console's width; a name and its value stay together."""
    text = "; ".join(count.replace(" ", "\u00a0") for count in counts)
    lines = textwrap.wrap(text, OUT.width, break_long_words=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _cells(result: Result, name: str) -> tuple[str, str]:
    """A metric's value and interval, in percent."""
    value, low_high = result.metrics.get(name), result.intervals.get(name)
    return (
        "" if value is None else f"{100 * value:.2f} %",
        "" if low_high is None else f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f} %",
    )
