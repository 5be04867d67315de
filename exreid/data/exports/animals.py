"""The content of every export: animals on photographs, each with its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from exreid.data.boxes import Box
from exreid.data.masks import Mask

Place = Callable[[str, str], None]
"""Puts a photograph (its path below the root) at a path below the folder that is written."""


@dataclass(frozen=True)
class ExportedAnimal:
    """One animal on one photograph, with its answer."""

    image_id: str
    path: str
    """The photograph's path below the export's root."""
    wh_px: tuple[int, int]
    """Size of the photograph as it is displayed; the box is in these pixels."""
    box: Box | None = None
    drawn: bool = False
    """Whether the box is only the extent of the mask."""
    mask: Mask | None = None
    """The mask of the source: on the displayed photograph, or on its stored pixels."""
    mask_px: int = 0
    """The number of the mask's pixels."""
    animal: str | None = None
    """The known animal; None where none was named."""
    new_animal: str | None = None
    """``new_01``, ...: the name in this export of an animal that the gallery does not know."""
    decision: str | None = None
    """The kind of answer, of `exreid.explain.answer_words`; None if a person named the animal."""
    answer: str | None = None
    """The answer in words."""
    nearest: str | None = None
    """The nearest known animal, whether or not it was named."""
    probability: float | None = None
    """The probability that the nearest animal is the right one."""
    moment: datetime | None = None
    """When the photograph was taken, by the camera's clock."""
    has_time: bool = True
    """Whether the time of ``moment`` is known; otherwise only its day is."""
    encounter: str | None = None
    site: str | None = None
    viewpoint: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    species: str | None = None

    @property
    def upright_box(self) -> Box | None:
        """The box, or the upright box around a turned one, cut at the photograph's edges."""
        if self.box is None:
            return None
        box, (width, height) = self.box.around, self.wh_px
        return Box(
            max(box.left, 0.0),
            max(box.top, 0.0),
            min(box.right, float(width)),
            min(box.bottom, float(height)),
        )

    @property
    def date_text(self) -> str | None:
        """ISO, with the time if it is known."""
        if self.moment is None:
            return None
        return str(self.moment if self.has_time else self.moment.date())


@dataclass(frozen=True)
class Export:
    """All exported animals, in the order of their run or gallery."""

    root: str
    name: str
    """The name of the run or gallery."""
    animals: list[ExportedAnimal]
    classified_by: str | None = None
    """The program and version that answered; None if people named the animals."""
    classified_at: str | None = None
    """ISO, with its zone."""

    @property
    def turned(self) -> int:
        """The number of turned boxes."""
        return sum(entry.box is not None and entry.box.theta_rad != 0 for entry in self.animals)

    @property
    def paths(self) -> list[str]:
        """The photographs, each once."""
        return list(dict.fromkeys(entry.path for entry in self.animals))
