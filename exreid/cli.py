"""The ``exreid`` command; ``jobs/*.py`` call the same functions.

Exit codes: 0 done, 1 failed, 2 wrong usage or config.
"""

from __future__ import annotations

import argparse
import difflib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import shtab

from exreid import __version__
from exreid.commands import (
    compare,
    datasets,
    demo,
    discover,
    exports,
    finetune,
    gallery,
    identify,
    imports,
    init,
    population,
    probe,
    report,
    review,
    synthetic,
    terminal,
    tune,
)
from exreid.commands.common import Command, Parser, data_overrides, plain_arguments
from exreid.commands.terminal import ERR, OUT, SCREEN, reporting
from exreid.config.io import load_config, to_yaml
from exreid.config.probe import ProbeConfig
from exreid.errors import ConfigError, ExreidError
from exreid.storage.disk import places_of, storage_error
from exreid.storage.urls import is_remote

SIGNALS = (signal.SIGINT, signal.SIGTERM)
POSITIONAL = ("run_dir", "runs")
PATHS = ("out", "root", "compare", *POSITIONAL)
"""Options with paths that are no `Path` because they may be URLs."""


def main(arguments: Sequence[str] | None = None, *, called: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. ``called`` is how the user called it."""
    # Read by OpenMP when torch is loaded, later. Threads that wait for each other by spinning
    # stand still on a machine that others use too: 3 times slower on two busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        if len(words) > 1 and words[0] == "help":
            return main([words[1], "--help"])
        OUT.print(_overview(), markup=False, soft_wrap=True)
        return 0
    if words[0] == "--version":
        OUT.print(f"exreid {__version__}", markup=False)
        return 0
    name = words[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"Did you mean exreid {near[0]}?" if near else "exreid help lists them."
        ERR.print(f"exreid: there is no command {name!a}. {remedy}", markup=False, soft_wrap=True)
        return 2
    command = COMMANDS[name]
    # Overrides may stand before, between and after the flags; subparsers cannot do that.
    parser = Parser(f"exreid {name}", command.text, words[1:])
    terminal.add_arguments(parser)
    parser.set_defaults(print_config=False)
    command.add_arguments(parser)
    parser.set_defaults(again=[*(called or ["exreid", name]), *words[1:]])
    with signals_end_the_run():
        return _guarded(command.run, parser.parse_intermixed_args(words[1:]))


def _overview() -> str:
    """The commands, grouped, with a line each."""
    lines = ["exreid identifies individual wild animals. exreid COMMAND --help tells more."]
    for title, names in COMMAND_GROUPS.items():
        lines.append(title)
        lines += [f"  {name:<12}{COMMANDS[name].text}" for name in names]
    return "\n".join(lines)


def job(command: str, arguments: Sequence[str] | None = None) -> int:
    """What ``jobs/COMMAND.py`` runs: the command's own arguments, without its name."""
    words = [command, *(sys.argv[1:] if arguments is None else arguments)]
    return main(words, called=["python", f"jobs/{command}.py"])


def _print_config(options: argparse.Namespace) -> int:
    more = {} if options.preset is None else {"preset": options.preset}
    config = options.load(options.config, data_overrides(options.overrides), **more)
    OUT.print(to_yaml(config), end="", markup=False, soft_wrap=True)
    return 0


def _guarded(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        with reporting(
            verbose=options.verbose,
            quiet=options.quiet,
            file=options.log_file,
            as_json=options.log_json,
        ):
            code = _print_config(options) if options.print_config else run(options)
            SCREEN.repeat_warnings()
        sys.stdout.flush()
        return code
    except ConfigError as error:
        ERR.print(f"exreid: {error}", markup=False, soft_wrap=True)
        return 2
    except Exception as error:
        told = error if isinstance(error, ExreidError) else storage_error(error, _places(options))
        if told is None:
            raise
        if options.verbose:
            ERR.print_exception()
        ERR.print(f"exreid: {told}", markup=False, soft_wrap=True)
        _say_how_to_go_on(options, told.run_id)
        return 1
    except KeyboardInterrupt as error:
        ERR.print("exreid: interrupted.")
        _say_how_to_go_on(
            options, getattr(error, "run_id", None), in_cache=getattr(error, "in_cache", False)
        )
        return 1


def _places(options: argparse.Namespace) -> dict[str, str | Path]:
    """The paths that the user has named, by the option or key that names each."""
    found: dict[str, str | Path] = {}
    words = [str(word) for name in ("overrides", "words") for word in getattr(options, name, [])]
    for name, value in vars(options).items():
        option = name.upper() if name in POSITIONAL else f"--{name.replace('_', '-')}"
        for place in value if isinstance(value, list) else [value]:
            if isinstance(place, Path) or (name in PATHS and place and not is_remote(str(place))):
                found[option] = place
    for number, word in enumerate(words):
        if "=" not in word:
            found[f"argument {number + 1}"] = word
    if hasattr(options, "overrides") or hasattr(options, "words"):  # the command takes keys
        keys = [word for word in words if "=" in word]
        load = getattr(options, "load", partial(load_config, ProbeConfig))
        with suppress(ExreidError):
            found |= places_of(load(getattr(options, "config", None), keys))
    return found


def _say_how_to_go_on(
    options: argparse.Namespace, run_id: str | None, *, in_cache: bool = False
) -> None:
    """The command that goes on from what was finished, as it can be pasted."""
    if run_id is None and not in_cache:
        return
    key = "output.run_id"
    words = [word for word in options.again if not word.startswith(f"{key}=")]
    if run_id is not None and hasattr(
        options, "overrides" if hasattr(options, "load") else "words"
    ):
        words.append(f"{key}={run_id}")
    ERR.print("What was finished is kept. To go on from there:", markup=False)
    ERR.print(f"  {shlex.join(words)}", markup=False, soft_wrap=True)


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = COMPLETION_USAGE
    plain_arguments(parser)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)


def _completion(options: argparse.Namespace) -> int:
    whole = argparse.ArgumentParser(prog="exreid", add_help=False)
    commands = whole.add_subparsers()
    for name, command in COMMANDS.items():
        parser = commands.add_parser(name, help=command.text, add_help=False)
        terminal.add_arguments(parser)
        command.add_arguments(parser)
    OUT.print(shtab.complete(whole, options.shell), markup=False, soft_wrap=True)
    return 0


COMPLETION_USAGE = """Print a shell's completion.

  bash: eval "$(exreid completion bash)" in ~/.bashrc
  zsh:  eval "$(exreid completion zsh)" in ~/.zshrc
  fish: exreid completion fish > ~/.config/fish/completions/exreid.fish
"""

COMMANDS = {
    "demo": demo.DEMO,
    "synth": synthetic.SYNTH,
    "datasets": datasets.DATASETS,
    "init": init.INIT,
    "import": imports.IMPORT,
    "validate": probe.VALIDATE,
    "gallery": gallery.GALLERY,
    "identify": identify.IDENTIFY,
    "discover": discover.DISCOVER,
    "review": review.REVIEW,
    "population": population.POPULATION,
    "export": exports.EXPORT,
    "probe": probe.PROBE,
    "compare": compare.COMPARE,
    "report": report.REPORT,
    "metrics": probe.METRICS,
    "finetune": finetune.FINETUNE,
    "tune": tune.TUNE,
    "extract": probe.EXTRACT,
    "completion": Command("Print a shell's completion.", _completion_arguments, _completion),
}
COMMAND_GROUPS = {
    "Begin": ("demo", "synth", "datasets", "init", "import", "validate"),
    "Which animal is this?": ("gallery", "identify", "discover", "review", "population", "export"),
    "Measure and train methods": (
        *("probe", "compare", "report", "metrics"),
        *("finetune", "tune", "extract", "completion"),
    ),
}


@contextmanager
def signals_end_the_run() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt, the second ends the process with exit code 1.

    Outside the main thread no signal can be caught: there it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: list[int] = []

    def end(number: int, frame: object) -> None:
        if seen:
            os._exit(1)
        seen.append(number)
        if sys.stderr is not None and sys.stderr.isatty():
            os.write(2, b"\nStopping; once more to stop at once.\n")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
