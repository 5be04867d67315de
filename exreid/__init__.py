"""Identify individual animals by image retrieval, and measure honestly how well it works."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exreid.api import Gallery as Gallery
    from exreid.api import Probe as Probe
    from exreid.api import embed as embed
    from exreid.api import match as match
    from exreid.api import probe as probe

__version__ = "0.1.0"

_API = ("Gallery", "Probe", "embed", "match", "probe")


def __getattr__(name: str) -> object:
    """The API is imported when it is first used: ``import exreid`` takes no time."""
    if name not in _API:
        raise AttributeError(f"module 'exreid' has no attribute {name!r}")
    from exreid import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
