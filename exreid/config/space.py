"""The search space of a sweep: distributions over dotted keys, checked before anything starts."""

from __future__ import annotations

import copy
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exreid.config.base import StrictModel, Tree
from exreid.config.io import from_values, leaf_keys, nearest_key
from exreid.errors import ConfigError
from exreid.records import Json

RANGES = {
    "uniform": 2,
    "loguniform": 2,
    "quniform": 3,
    "randint": 2,
    "lograndint": 2,
    "qrandint": 3,
}
"""Distributions over a range, with their number of parameters: low, high (both included), step."""
LISTS = ("choice", "grid")
"""Distributions over the values that are listed."""
CORNERS = 4096
"""At most this many combinations of the ends of all distributions are checked."""
SAME_FOR_ALL = {
    "output": "where trials write",
    "wandb": "who watches them",
    "ray": "where they run",
    "seed": "what is held out",
    "validation": "what trials are judged on",
    "dataset": "which images trials are judged on",
}
"""Blocks that are not searched, and their meaning."""
SEARCHABLE_DATASET = (
    *("image_size", "resize", "no_background", "crop_to_mask", "crop", "crop_margin"),
    *("fill_rgb", "reduced_decode"),
)
"""Keys of dataset that change how images are prepared, not which are used."""


@dataclass(frozen=True)
class Distribution:
    """Where one key's value is drawn from."""

    kind: str
    numbers: tuple[float, ...] = ()
    """Of a range: low, high and, where there is one, step."""
    choices: tuple[Json, ...] = ()
    """Of a list: its values."""

    @property
    def whole(self) -> bool:
        """Whether it gives whole numbers."""
        return self.kind.endswith("randint")

    @property
    def logarithmic(self) -> bool:
        """Whether each factor is equally likely, instead of each difference."""
        return self.kind.startswith("log")

    @property
    def step(self) -> float | None:
        """The distance between the values; None for a continuous range."""
        return self.numbers[2] if len(self.numbers) == 3 else None

    def ends(self) -> list[Json]:
        """The lowest and the highest value, or all of a list."""
        return list(self.choices or self.numbers[:2])

    def within(self) -> list[float]:
        """A value between the ends, to find keys that take no fractions."""
        if not self.numbers or self.whole:
            return []
        low, high = self.numbers[:2]
        inside = low + (self.step or (high - low) * (math.sqrt(5) - 2))
        return [inside] if low < inside < high else []


def parse_space(space: Mapping[str, object]) -> dict[str, Distribution]:
    """The distribution of each dotted key; keys may be dotted or nested.

    >>> parse_space({"optimizer.lr": {"loguniform": [0.001, 0.1]}})["optimizer.lr"].numbers
    (0.001, 0.1)
    >>> parse_space({"loss": {"type": {"choice": ["arcface", "softmax"]}}})["loss.type"].choices
    ('arcface', 'softmax')
    """
    return {key: _parse(key, spec) for key, spec in flatten_space(space).items()}


def flatten_space(space: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """The specification of each dotted key, as it was written."""
    flat: dict[str, object] = {}
    for name, value in space.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not set(value) & {*RANGES, *LISTS}:
            flat |= flatten_space(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _parse(key: str, spec: object) -> Distribution:
    place = f"tune.space.{key}"
    known = ", ".join([*RANGES, *LISTS])
    if not isinstance(spec, Mapping) or len(spec) != 1:
        near = difflib.get_close_matches(key.rsplit(".", 1)[-1], [*RANGES, *LISTS], n=1)
        if near:
            raise ConfigError(f"{place}: unknown distribution. Did you mean {near[0]}?")
        raise ConfigError(
            f"{place}: write one distribution, such as {{uniform: [0.1, 0.5]}}; it is {spec!r}. "
            f"There are {known}."
        )
    ((kind, values),) = spec.items()
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise ConfigError(f"{place}.{kind}: takes a list; it is {values!r}.")
    if kind in LISTS:
        if len({repr(value) for value in values}) < len(values):
            raise ConfigError(f"{place}.{kind}: has a value twice.")
        return Distribution(kind, choices=tuple(values))
    return Distribution(kind, numbers=_range(place, kind, values))


def _range(place: str, kind: str, values: Sequence[object]) -> tuple[float, ...]:
    whole = kind.endswith("randint")
    if len(values) != RANGES[kind]:
        names = ["low", "high", "step"][: RANGES[kind]]
        raise ConfigError(f"{place}.{kind}: takes [{', '.join(names)}]; it is {list(values)!r}.")
    numbers: list[float] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind_of = "whole numbers" if whole else "numbers"
            raise ConfigError(f"{place}.{kind}: takes {kind_of}; it is {list(values)!r}.")
        numbers.append(value)
    low, high = numbers[:2]
    if low >= high:
        raise ConfigError(f"{place}.{kind}: low {low} is not below high {high}.")
    if kind.startswith("log") and low <= 0:
        raise ConfigError(f"{place}.{kind}: a logarithmic range starts above 0; it is {low}.")
    if len(numbers) == 3 and not 0 < numbers[2] <= high - low:
        raise ConfigError(f"{place}.{kind}: step {numbers[2]} does not fit between low and high.")
    return tuple(numbers) if whole else tuple(float(number) for number in numbers)


def check_space(model: type[StrictModel], tree: Tree, space: Mapping[str, Distribution]) -> None:
    """ConfigError unless the config takes every value of every distribution.

    Each key's ends and listed values are tried one by one in the base config, and then all
    combinations of ends (`CORNERS` at most), for what the config asks of several keys together.
    """
    if not space:
        raise ConfigError("tune.space is empty: nothing to search. Name a key and a distribution.")
    known = leaf_keys(model)
    for key, distribution in space.items():
        _check_key(model, key, known)
        for value in [*distribution.ends(), *distribution.within()]:
            _check_values(model, tree, {key: value})
    corners = itertools.product(*(distribution.ends() for distribution in space.values()))
    for values in itertools.islice(corners, CORNERS):
        _check_values(model, tree, dict(zip(space, values, strict=True)))


def _check_key(model: type[StrictModel], key: str, known: Sequence[str]) -> None:
    block, _, leaf = key.partition(".")
    if key not in known:
        inside = [name for name in known if name.startswith(f"{key}.")]
        hint = f" It is a block of {', '.join(inside)}." if inside else nearest_key(model, key)
        raise ConfigError(f"tune.space.{key}: unknown key.{hint}")
    if block in SAME_FOR_ALL and not (block == "dataset" and leaf in SEARCHABLE_DATASET):
        allowed = ""
        if block == "dataset":
            allowed = f" Of dataset, only {', '.join(SEARCHABLE_DATASET)} can be searched."
        raise ConfigError(
            f"tune.space.{key}: {block} says {SAME_FOR_ALL[block]}, which is the same for all "
            f"trials.{allowed}"
        )


def _check_values(model: type[StrictModel], tree: Tree, values: Mapping[str, Json]) -> None:
    try:
        from_values(model, with_values(tree, values), source="")
    except ConfigError as error:
        given = ", ".join(f"{key}={value}" for key, value in values.items())
        reasons = "\n".join(str(error).splitlines()[1:])
        raise ConfigError(
            f"tune.space: with {given} a trial's config is not valid:\n{reasons}"
        ) from error


def with_values(tree: Tree, values: Mapping[str, Json]) -> Tree:
    """A copy of a config's tree with other values of some dotted keys.

    >>> with_values({"loss": {"scale": 64.0}}, {"loss.scale": 32.0})
    {'loss': {'scale': 32.0}}
    """
    changed = copy.deepcopy(tree)
    for key, value in values.items():
        *blocks, leaf = key.split(".")
        part = changed
        for block in blocks:
            part = part[block]
        part[leaf] = value
    return changed


def value_of(tree: Tree, key: str) -> Json:
    """The value of a dotted key."""
    *blocks, leaf = key.split(".")
    for block in blocks:
        tree = tree[block]
    return tree[leaf]
