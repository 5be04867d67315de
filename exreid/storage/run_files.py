"""Reading a finished run's folder back. Its bytes are not trusted: a disk may have damaged them, a
person edited them, another version written them. What cannot be right is a RunError that names the
file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from exreid.errors import ExreidError, RunError
from exreid.progress import counted
from exreid.storage.files import read_json

IN_GALLERY = "in gallery"
"""The ``side`` in ``photos.parquet`` of a photograph that was given, and that the gallery has."""
AGAIN = "It is damaged, or another version wrote it: run again, or get the folder again."
TEXT, WHOLE, NUMBER, TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
QUERIES = {"query_id": TEXT, "candidates": WHOLE, "positives": WHOLE, "identity_rank": WHOLE}
RANKINGS = {"query_id": TEXT, "rank": WHOLE, "gallery_id": TEXT}
OPEN_SET = {"query_id": TEXT, "decision": TEXT}
NEW_ANIMALS = {"query_id": TEXT, "group": WHOLE}
PHOTOS = {"image_id": TEXT}
GATED = {"query_id": TEXT, "rank": WHOLE, "gallery_id": TEXT, "score": NUMBER, "reason": TEXT}
"""Columns without which a table is of no use, none of them with an empty cell."""


@contextmanager
def damage_named(place: Path) -> Iterator[None]:
    """Any error of the block, which reads a run's files, as a RunError that names ``place``.

    Errors of the system itself (no permission, no space) pass as they are.
    """
    try:
        yield
    except (ExreidError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:  # pyarrow's own, on bytes that are no table, have none
            raise
        raise RunError(f"{place}: cannot be read. {AGAIN}") from error
    except Exception as error:
        raise RunError(
            f"{place}: what is in it does not fit together. {AGAIN} (--verbose says what failed.)"
        ) from error


def read_run_table(
    file: Path,
    columns: Mapping[str, pa.DataType],
    *,
    empty: Mapping[str, pa.DataType] | None = None,
    key: str | None = None,
) -> pa.Table:
    """A Parquet table of a run, with these columns as these types; other columns as they are.

    ``columns`` have no empty cells, those of ``empty`` may have. No value of ``key`` comes twice.
    """
    with damage_named(file):
        table = pq.read_table(file, page_checksum_verification=True)
        table.validate(full=True)
    for name, wanted in {**columns, **(empty or {})}.items():
        if name not in table.column_names:
            raise RunError(f"{file}: has no column {name!r}. {AGAIN}")
        place, column = table.column_names.index(name), table[name]
        try:
            column = column.cast(wanted)
        except (pa.ArrowException, ValueError) as error:
            raise RunError(
                f"{file}: its column {name!r} has {column.type}, not {wanted}. {AGAIN}"
            ) from error
        if name in columns and column.null_count:
            gaps = counted(column.null_count, "empty cell")
            raise RunError(f"{file}: {gaps} in its column {name!r}. {AGAIN}")
        table = table.set_column(place, name, column)
    if key is not None and len(table[key].unique()) < len(table):
        raise RunError(f"{file}: the same {key!r} comes more than once. {AGAIN}")
    return table


read_run_json = partial(read_json, error=RunError, remedy=AGAIN)
"""A JSON object of a run."""
