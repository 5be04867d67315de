"""A gallery's fits as JSON: the decision known or new, the grouping of new animals."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from exreid.calibration.curves import Calibration
from exreid.errors import CalibrationError, GalleryError
from exreid.gallery.layout import DAMAGED, MANIFEST
from exreid.openset.decide import Decider
from exreid.openset.group import Grouping
from exreid.records import Json

SAVED_AS = {
    "threshold": "bar",
    "fitted_images": "practice_images",
    "fitted_identities": "practice_animals",
    "fitted_ari": "practice_ari",
}
"""Names of fields in gallery.json, where they differ."""


def decider_to_json(decider: Decider) -> dict[str, Json]:
    """All that `decider_from_json` needs; JSON keeps every bit of a float."""
    values = {field.name: _plain(getattr(decider, field.name)) for field in fields(decider)}
    return {SAVED_AS.get(name, name): value for name, value in values.items()}


def decider_from_json(values: dict[str, Any]) -> Decider:
    """What `decider_to_json` wrote; GalleryError for anything else."""
    try:
        return Decider(**{name: _tupled(value) for name, value in _fields(values).items()})
    except TypeError as error:
        raise GalleryError(f"{MANIFEST}: not a decision known/new: {error}. {DAMAGED}") from error


def grouping_to_json(grouping: Grouping) -> dict[str, Json]:
    """All that `grouping_from_json` needs."""
    curve = None if grouping.curve is None else grouping.curve.as_json()
    values = {field.name: getattr(grouping, field.name) for field in fields(grouping)}
    values |= {"curve": curve}
    return {SAVED_AS.get(name, name): value for name, value in values.items()}


def grouping_from_json(values: dict[str, Any]) -> Grouping:
    """What `grouping_to_json` wrote; GalleryError for anything else."""
    try:
        values = _fields(values)
        curve = values["curve"]
        curve = None if curve is None else Calibration.from_json(curve)
        return Grouping(**(values | {"curve": curve}))
    except (KeyError, TypeError, CalibrationError) as error:
        raise GalleryError(f"{MANIFEST}: not a grouping: {error}. {DAMAGED}") from error


def _fields(saved: dict[str, Any]) -> dict[str, Any]:
    names = {name: field for field, name in SAVED_AS.items()}
    return {names.get(name, name): value for name, value in saved.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "inf" if value > 0 else "-inf"
    return value.item() if isinstance(value, np.generic) else value


def _tupled(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tupled(item) for item in value)
    return float(value) if value in ("inf", "-inf") else value
