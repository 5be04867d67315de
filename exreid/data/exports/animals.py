"""What every export is made of: animals on photographs, with what was answered of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from exreid.data.boxes import Box
from exreid.data.masks import Mask

Place = Callable[[str, str], None]
"""Puts a photograph (its path below the root) to a path below the folder that is written."""


@dataclass(frozen=True)
class ExportedAnimal:
    """One animal on one photograph, and what is said of it."""

    image_id: str
    path: str
    """Of the photograph, below the export's root."""
    wh_px: tuple[int, int]
    """Of the photograph as it is displayed; its box is in these pixels."""
    box: Box | None = None
    drawn: bool = False
    """Whether the box is only the extent of the mask."""
    mask: Mask | None = None
    """As it was given: also on the stored pixels of a photograph that is displayed turned."""
    mask_px: int = 0
    """How many pixels it has."""
    animal: str | None = None
    """The known animal; None where none was named."""
    new_animal: str | None = None
    """``new_01``, ... : one animal among those of this export that no gallery knows."""
    decision: str | None = None
    """The kind of answer, of `exreid.explain.told`; None where a person named the animal."""
    answer: str | None = None
    """In words."""
    nearest: str | None = None
    """The known animal that is nearest, whether or not it was named."""
    probability: float | None = None
    """That the nearest animal is the right one."""
    moment: datetime | None = None
    """When it was taken, by the camera's clock."""
    has_time: bool = True
    """Whether the time of ``moment`` is known, and not its day alone."""
    encounter: str | None = None
    site: str | None = None
    viewpoint: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    species: str | None = None

    @property
    def upright_box(self) -> Box | None:
        """The box, or the one around a turned box, as far as it lies on the photograph."""
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
        """ISO, with the time where it is known."""
        if self.moment is None:
            return None
        return str(self.moment if self.has_time else self.moment.date())


@dataclass(frozen=True)
class Export:
    """All animals that are exported, in the order of their run or gallery."""

    root: str
    name: str
    """Of the run or gallery."""
    animals: list[ExportedAnimal]
    classified_by: str | None = None
    """The program and version that answered; None where people named the animals."""
    classified_at: str | None = None
    """ISO, with its zone."""

    @property
    def turned(self) -> int:
        """How many boxes are turned."""
        return sum(one.box is not None and one.box.theta_rad != 0 for one in self.animals)

    @property
    def paths(self) -> list[str]:
        """The photographs, each once."""
        return list(dict.fromkeys(one.path for one in self.animals))
