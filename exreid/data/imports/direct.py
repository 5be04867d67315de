"""Other programs' files, and folders of photographs, as metadata without an import before."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from exreid.data.imports.content import Content, choose, read_content
from exreid.data.imports.finish import Imported
from exreid.data.imports.folders import has_animal_folders
from exreid.data.imports.read import Choices, import_content
from exreid.data.metadata_table import Columns, MetadataFile, find_metadata
from exreid.errors import ImageError, MetadataError
from exreid.progress import counted, tell
from exreid.storage.urls import file_signature

FOLDERS_READ = "Folders read as"
"""The beginning of a note that is left out where the folders themselves are the data set."""


def read_or_import(
    root: str,
    metadata_file: str | None,
    columns: Columns,
    *,
    require_identity: bool = True,
    skip: bool = False,
) -> tuple[MetadataFile, list[str]]:
    """The metadata as a table, and sentences on how another program's file was read.

    A table with the wanted columns is taken as it is. JSON, XML and packages are converted to
    exreid's own table, and so are tables of a known form if ``columns`` has its default names;
    animals without a name are left out with ``require_identity``. MetadataError.
    """
    source = _source(root, metadata_file)
    content = _content(source, _stamp(source))
    if content.table is not None and not _is_foreign(content, columns, require_identity):
        _content.cache_clear()  # a large table is not kept twice
        return content.table, []
    made = _made(source, _stamp(source), root, require_identity, skip)
    lines = made.report()
    if source == root:  # the first line was told already, and folders may lack some columns
        cells = made.cells.copy()
        for name in columns.required - {*cells.columns, columns.path, columns.identity}:
            cells[name] = None
        notes = [line for line in lines[1:] if not line.startswith(FOLDERS_READ)]
        line_N = np.zeros(len(cells), dtype=np.int64)
        return MetadataFile(cells, source, line_N), [note.rstrip(".") for note in notes]
    notes = [f"read as {line}" if i == 0 else line for i, line in enumerate(lines)]
    line_N = np.arange(len(made.cells)) + 2
    return MetadataFile(made.cells, source, line_N), [note.rstrip(".") for note in notes]


def foreign_columns(
    root: str,
    metadata_file: str | None,
    columns: Columns,
    *,
    require_identity: bool = True,
    skip: bool = False,
) -> list[str] | None:
    """The columns of the table that `read_or_import` makes of another program's file; None for a
    table that is taken as it is."""
    source = _source(root, metadata_file)
    content = _content(source, _stamp(source))
    if content.table is not None and not _is_foreign(content, columns, require_identity):
        return None
    made = _made(source, _stamp(source), root, require_identity, skip)
    if source == root:
        photographs = counted(made.photographs, "photograph")
        tell(f"{root}: {photographs} of {counted(made.identities, 'animal')}, in folders.")
    return list(made.cells.columns)


def reads_folders(root: str, metadata_file: str | None) -> bool:
    """Whether the data set has no table, but a folder for each animal."""
    try:
        return _source(root, metadata_file) == root
    except MetadataError:
        return False


def _source(root: str, metadata_file: str | None) -> str:
    """The metadata file; the root itself if it has none, but a folder for each animal."""
    try:
        return find_metadata(root, metadata_file)
    except MetadataError:
        if metadata_file is None and has_animal_folders(root):
            return root
        raise


def _is_foreign(content: Content, columns: Columns, require_identity: bool) -> bool:
    assert content.table is not None
    wanted = {columns.path, columns.identity} if require_identity else {columns.path}
    default = Columns()
    return (
        content.fits != ["table"]
        and not wanted <= set(content.table.cells.columns)
        and (columns.path, columns.identity) == (default.path, default.identity)
    )


@lru_cache(maxsize=1)
def _content(source: str, stamp: str) -> Content:
    return read_content(source)


@lru_cache(maxsize=2)
def _made(source: str, stamp: str, root: str, only_named: bool, skip: bool) -> Imported:
    content = _content(source, stamp)
    what = "folders" if source == root else choose(content, None)
    return import_content(content, what, root, Choices(), skip=skip, only_named=only_named)


def _stamp(source: str) -> str:
    """A text that changes with the file."""
    folder, _, name = source.rpartition("/")
    try:
        return file_signature(folder or ".", name)
    except ImageError:  # an error where the file is read
        return ""
