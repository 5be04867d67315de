"""Public data sets: what is known of each, and the keys of ``dataset`` that read its files.

Each is a file of ``public_sets``. ``exreid datasets`` shows them; ``dataset.preset=NAME`` takes the
keys of one.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field, PositiveInt

from exreid.config.base import StrictModel, Tree, UnitInterval
from exreid.errors import ConfigError

FOLDER = Path(__file__).parent / "public_sets"


class PublishedFigures(StrictModel):
    """Figures of a method on the set, as its authors give them."""

    method: str
    """The method, in the words of the source."""
    metrics: dict[str, UnitInterval]
    """By the names of exreid's metrics, as fractions."""
    source: str
    """Where the figures are written."""
    keys: dict[str, object] | None = None
    """Dotted keys of the nearest probe of exreid; None: exreid has no such method."""
    differs: str = ""
    """What that probe does in another way."""


class PublicSet(StrictModel):
    """A public data set, and how its files are read."""

    title: str
    """The name that its authors use."""
    species: str
    images: PositiveInt | None = None
    """Photographs with an animal, as the sources give them."""
    animals: PositiveInt | None = None
    """Known animals."""
    licence: str
    """As the sources give it. ``none stated``: ask the authors."""
    url: str
    """Where it is had."""
    folder: str = ""
    """The folder below the unpacked set that ``dataset.root`` names."""
    prepare: str | None = None
    """A command of exreid that makes the table first, with ROOT for ``dataset.root``."""
    keys: dict[str, object] = Field(default_factory=dict)
    """Keys of ``dataset`` and their values."""
    split: str
    """The split that the keys take, and that of published tables."""
    note: str | None = None
    """What one should know before one trusts a figure."""
    unreadable: str | None = None
    """Why exreid cannot read its files as they are."""
    sources: tuple[str, ...] = Field(min_length=1)
    """Where all this is written."""
    published: tuple[PublishedFigures, ...] = ()


def public_names() -> list[str]:
    """The names of the sets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@cache
def public_set(name: str) -> PublicSet:
    """The set of this name, in any case; ConfigError with the near names for another one."""
    names = public_names()
    if name.lower() not in names:
        near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"there is no public data set {name!a}.{meant} exreid datasets lists them."
        )
    tree = yaml.safe_load((FOLDER / f"{name.lower()}.yaml").read_text(encoding="utf-8"))
    # Not strict about the types: tuples are lists in YAML.
    return PublicSet.model_validate(tree, strict=False)


def with_preset(tree: Tree) -> Tree:
    """A config's tree with the keys of ``dataset.preset`` below those that it has.

    A ``split_col`` of the tree takes the place of a split that the preset makes. ConfigError for a
    name that no set has, and for a set that exreid cannot read.
    """
    dataset = tree.get("dataset")
    name = dataset.get("preset") if isinstance(dataset, dict) else None
    if not isinstance(dataset, dict) or not isinstance(name, str):
        return tree
    try:
        chosen = public_set(name)
    except ConfigError as error:
        raise ConfigError(f"dataset.preset: {error}") from None
    if chosen.unreadable:
        raise ConfigError(
            f"dataset.preset={name}: exreid cannot read the files of {chosen.title} as they are: "
            f"{chosen.unreadable} exreid datasets {name.lower()} says how a table is made."
        )
    keys = dict(chosen.keys)
    if "split_col" in dataset:
        keys.pop("make_split", None)
    return {**tree, "dataset": {**keys, **dataset}}
