"""Examples in docstrings (``>>>``) as blocks of code: Markdown takes them for quotations."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Fences every paragraph that begins with ``>>>``."""

    def on_object(self, *, obj: griffe.Object, **unused: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring is not None:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_fenced, paragraphs))


def _fenced(paragraph: str) -> str:
    begins = paragraph.lstrip().startswith(">>>")
    return f"```pycon\n{paragraph}\n```" if begins else paragraph
