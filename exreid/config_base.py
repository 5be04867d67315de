"""What every part of the config is made of: the strict model, and the types of its keys."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


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


def _number_as_text(value: Any) -> Any:
    # YAML reads `query_split_value: 1` as a number; the cells of a table are text.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def switch_as_text(value: Any) -> Any:
    """For keys whose values are words: YAML 1.1 reads off and on as booleans."""
    return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value


def switch_as_word(value: Any) -> Any:
    """For keys whose values are on, off and others."""
    return {False: "off", True: "on"}[value] if isinstance(value, bool) else value


CellText = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1)]
ColourByte = Annotated[int, Field(ge=0, le=255)]
SafetyLevel = Literal["off", "warn", "strict"]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
