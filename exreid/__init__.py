"""Identify individual animals by image retrieval, and measure honestly how well it works."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exreid import metrics as metrics
    from exreid.api import Finetuned as Finetuned
    from exreid.api import Gallery as Gallery
    from exreid.api import Keypoints as Keypoints
    from exreid.api import Probe as Probe
    from exreid.api import embed as embed
    from exreid.api import finetune as finetune
    from exreid.api import load_images as load_images
    from exreid.api import local_features as local_features
    from exreid.api import match as match
    from exreid.api import probe as probe
    from exreid.api import rank as rank

__version__ = "0.1.0"

_API = (
    *("Finetuned", "Gallery", "Keypoints", "Probe"),
    *("embed", "finetune", "load_images", "local_features", "match", "probe", "rank"),
)


def __getattr__(name: str) -> object:
    """The API is imported when it is first used: ``import exreid`` takes no time."""
    if name == "metrics":
        return import_module("exreid.metrics")
    if name not in _API:
        raise AttributeError(f"module 'exreid' has no attribute {name!r}")
    return getattr(import_module("exreid.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API, "metrics"])
