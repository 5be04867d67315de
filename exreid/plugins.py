"""Backbones, extractors, losses and metrics of other packages, found by their entry points.

A package names a callable in its pyproject::

    [project.entry-points."exreid.losses"]
    my-loss = "my_package:my_loss"

and ``loss.type=my-loss`` uses it. Nothing of a package is imported before a config names it.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from exreid.errors import ConfigError, ExreidError

BACKBONES, EXTRACTORS = "exreid.backbones", "exreid.extractors"
LOSSES, METRICS = "exreid.losses", "exreid.metrics"
GROUPS = (BACKBONES, EXTRACTORS, LOSSES, METRICS)

Made = TypeVar("Made")


@dataclass(frozen=True)
class Plugin:
    """A callable of another package."""

    entry: EntryPoint

    @property
    def package(self) -> str:
        """The package and its version: part of the keys of caches."""
        if self.entry.dist is None:
            return self.entry.module
        return f"{self.entry.dist.name} {self.entry.dist.version}"

    def make(self, kind: type[Made], /, *arguments: object, **keywords: object) -> Made:
        """What it returns; ConfigError, with the package and the group, where it cannot be
        imported, fails, or returns something else."""
        try:
            made = self.entry.load()(*arguments, **keywords)
        except ExreidError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self._told}: {type(error).__name__}: {error}. Mend or update that package."
            ) from error
        if not isinstance(made, kind):
            raise ConfigError(
                f"{self._told}: returned {type(made).__name__}, and {kind.__name__} is needed."
            )
        return made

    @property
    def _told(self) -> str:
        name, group = self.entry.name, self.entry.group
        return f"{name!r} of {self.package} (entry point {group}, {self.entry.value})"


def find_plugin(group: str, name: str, built_in: Collection[str] = ()) -> Plugin | None:
    """The callable that an installed package registers under this name; None where none does.

    ConfigError where two packages do, or one of them takes a name that is exreid's own.
    """
    found = [entry for entry in _entries(group, tuple(sys.path)) if entry.name == name]
    packages = sorted({Plugin(entry).package for entry in found})
    if found and name in built_in:
        raise ConfigError(
            f"{name!r} is exreid's own, and {' and '.join(packages)} registers it again (entry "
            f"point {group}). Uninstall that package, or have it take another name."
        )
    if len(packages) > 1:
        raise ConfigError(
            f"{name!r} is registered by {' and by '.join(packages)} (entry point {group}). "
            "Uninstall all but one."
        )
    return Plugin(found[0]) if found else None


def plugin_names(group: str) -> list[str]:
    """What installed packages register, sorted."""
    return sorted({entry.name for entry in _entries(group, tuple(sys.path))})


def plugin_packages() -> dict[str, str]:
    """The packages that register anything, with their versions."""
    dists = [entry.dist for group in GROUPS for entry in _entries(group, tuple(sys.path))]
    return {dist.name: dist.version for dist in dists if dist is not None}


@cache
def _entries(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Of the packages on this ``sys.path``."""
    return tuple(entry_points(group=group))
