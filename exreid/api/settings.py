"""Configs from keyword arguments: dotted keys, tables in memory, and the folders of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from exreid.api.photographs import PathLike
from exreid.config.base import StrictModel, Tree
from exreid.config.dataset import DatasetConfig
from exreid.config.io import read_tree
from exreid.errors import ConfigError
from exreid.storage.urls import is_remote

Keys = Mapping[str, object]
"""Dotted config keys and their values, such as ``{"dataset.root": "lynx"}``."""
OWN_NAMES = {"split": "split_col", "encounter": "encounter_cols", "viewpoint": "viewpoint_col"}
"""exreid's own names of columns, and the keys that they are values of."""


@dataclass(frozen=True)
class RunFolders:
    """The folders that a run writes to."""

    scratch: Path
    """A temporary folder, removed after the run."""
    kept: Path | None
    """The folder that keeps the run; None if it is not kept."""
    overrides: list[str]


@contextmanager
def run_folders(output_dir: PathLike | None, cache: PathLike | None) -> Iterator[RunFolders]:
    """The folders that a run writes to; without ``output_dir`` and ``cache``, temporary ones."""
    with TemporaryDirectory(prefix="exreid-") as folder:
        scratch = Path(folder)
        kept = None if output_dir is None else Path(output_dir).expanduser().absolute()
        features = scratch / "cache" if cache is None else Path(cache).expanduser().absolute()
        output = f"output.root={as_typed(kept or scratch / 'runs')}"
        yield RunFolders(scratch, kept, [output, f"benchmark.cache={as_typed(features)}"])


def overrides_of(keys: Keys | None) -> list[str]:
    """The keys as words of a command line; ConfigError for those that are arguments in Python."""
    for key, argument in {"output.root": "output_dir", "benchmark.cache": "cache"}.items():
        if key in (keys or {}):
            raise ConfigError(f"{key}: from Python this is the argument {argument}.")
    return [f"{key}={as_typed(value)}" for key, value in (keys or {}).items()]


def as_typed(value: object) -> str:
    """A value as on the command line: text as it is, any other value as JSON."""
    return str(value) if isinstance(value, str | Path) else json.dumps(value, default=str)


def table_overrides(
    table: pd.DataFrame | None,
    model: type[StrictModel],
    config: PathLike | None,
    keys: Keys | None,
    where: RunFolders,
) -> list[str]:
    """Overrides that make a DataFrame the data set's table; none without a table.

    The table is written into the run's folders. If it has ``identity`` and not the default column
    of ``dataset.label_col``, it has exreid's own names: ``identity, split, encounter, viewpoint``.
    Without ``dataset.root``, the root of absolute paths is their deepest common folder.
    """
    if table is None:
        return []
    dataset_keys: Tree = read_tree(model, config, overrides_of(keys)).get("dataset") or {}
    if "metadata_file" in dataset_keys:
        raise ConfigError("table and dataset.metadata_file: name one of them.")
    frame = as_cells(table)
    path_col: str = dataset_keys.get("path_col", "path")
    default = DatasetConfig()
    values: dict[str, object] = {}
    if path_col in frame:
        values["root"], paths = _rooted(frame[path_col].tolist(), dataset_keys.get("root"))
        frame[path_col] = pd.Series(paths, dtype=object)
    if "label_col" not in dataset_keys and default.label_col not in frame and "identity" in frame:
        values["label_col"] = "identity"
        for name, key in OWN_NAMES.items():
            if key not in dataset_keys and name in frame and frame[name].notna().any():
                values[key] = [name] if key == "encounter_cols" else name
    data = frame.to_parquet(index=False)
    folder = where.scratch
    if where.kept is not None:  # reports of a kept run read the table again
        folder = where.kept / "tables" / hashlib.blake2b(data, digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "table.parquet"
    file.write_bytes(data)
    values["metadata_file"] = file
    return [f"dataset.{key}={as_typed(value)}" for key, value in values.items()]


def _rooted(paths: list[object], root: str | None) -> tuple[str, list[object]]:
    """The data set's folder, and the paths, those inside it relative to it."""
    local = [path for path in paths if isinstance(path, str) and path.startswith("/")]
    if root is None:
        if not local or len(local) < sum(isinstance(path, str) for path in paths):
            return ".", paths
        root = os.path.commonpath([os.path.dirname(path) for path in local])  # noqa: PTH120
    if is_remote(root):
        return root, paths
    start = os.path.abspath(os.path.expanduser(root)).rstrip("/") + "/"  # noqa: PTH100, PTH111
    return root, [
        path[len(start) :] if isinstance(path, str) and path.startswith(start) else path
        for path in paths
    ]


def as_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its index; lists and dicts, such as boxes and masks, as JSON, other objects
    as text."""
    frame = table.reset_index(drop=True).copy()
    frame.columns = [str(name) for name in frame.columns]
    for i, kind in enumerate(frame.dtypes):
        if isinstance(kind, np.dtype) and kind.kind == "O":
            cells = [_as_cell(value) for value in frame.iloc[:, i]]
            frame.isetitem(i, np.array(cells, dtype=object))
    return frame


def _as_cell(value: object) -> str | None:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_text)
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return None
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
