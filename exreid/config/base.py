"""The parts of every config: the strict model, and the types of its keys."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

Tree = dict[str, Any]
"""A config as plain dicts, lists and values, not yet checked by its model."""


class StrictModel(BaseModel):
    """A part of the config: unknown keys and wrong types are errors, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )

    @field_validator("*")
    @classmethod
    def _fits_a_number(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise ValueError(f"{value} is out of range: a number must lie between -2^53 and 2^53")
        return value


LARGEST = 2**53


def _number_as_text(value: object) -> object:
    # Trees from Python may have numbers and truth values; the cells of a table are text.
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


def switch_as_text(value: object) -> object:
    """For keys whose values are auto, off and others: truth values are two of them."""
    return {"false": "off", "no": "off", "true": "auto", "yes": "auto", "on": "auto"}.get(
        str(value).lower(), value
    )


def switch_as_word(value: object) -> object:
    """For keys whose values are on, off and others."""
    return {"false": "off", "no": "off", "true": "on", "yes": "on"}.get(str(value).lower(), value)


PathText = Annotated[str, AfterValidator(os.path.expanduser), Field(min_length=1)]
"""A path, or a URL; ``~`` is the user's home, as a shell has it."""
CellText = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1)]
ColourByte = Annotated[int, Field(ge=0, le=255)]
SafetyLevel = Literal["off", "warn", "strict"]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
