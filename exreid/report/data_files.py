"""The data of the pages: scripts that hand JSON over, since a page from disk may read no file.

Every text goes through JSON and into the page as text, never as markup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exreid.storage.files import temporary_beside

QUERIES_PER_PART = 24


def write_script(file: Path, name: str, value: Any) -> None:
    """A script that gives ``value`` to the page under ``name``."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # "<" as an escape: the same text stays harmless should it ever stand inside a page.
    text = text.replace("<", "\\u003c")
    write_whole(file, f"exreid.data({json.dumps(name)},{text});\n")


def write_whole(file: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(file)
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    temporary.replace(file)


def coded(values: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Places among the sorted distinct texts, -1 for None; and those texts.

    >>> coded(["b", None, "a", "b"])
    ([1, -1, 0, 1], ['a', 'b'])
    """
    texts = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {text: i for i, text in enumerate(texts)}
    return [place.get(value, -1) for value in values], texts


def _finite(value: Any) -> Any:
    """NaN and infinities, which JSON lacks, as null; floats at 6 digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        if value and all(type(one) is int for one in value):
            return value
        return [_finite(one) for one in value]
    return value
