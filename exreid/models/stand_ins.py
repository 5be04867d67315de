"""The objects that a checkpoint may have besides tensors. Each is read as an inert stand-in, so
that a file cannot run a library's code.

torch reads a pickle with ``weights_only=True`` by an allow-list. While a file is read, it has the
objects that training tools leave beside their weights: states of random generators, numbers and
arrays of NumPy, argparse's and other settings. The stand-ins import nothing, look up no name
outside the table, and call nothing from the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch

NUMBER_TYPE = re.compile(r"[<>=|]?[biufc]\d{1,2}")


class Settings(dict[object, object]):
    """The settings of any object, as a dictionary without the object's code."""

    def __new__(cls, *arguments: object, **named: object) -> Settings:
        """Of any arguments, which are dropped."""
        return super().__new__(cls)

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Attributes are kept as items; anything else is dropped."""
        if isinstance(state, dict):
            self.update(state)


class NumberType:
    """NumPy's dtype of plain numbers."""

    def __init__(self, code: object = "", *more: object) -> None:
        if not isinstance(code, str) or not NUMBER_TYPE.fullmatch(code):
            raise ValueError(f"an array of {str(code)[:20]!r} in a checkpoint")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        """Of NumPy's state, the byte order."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array:
    """NumPy's array of plain numbers."""

    def __init__(self, *arguments: object) -> None:
        self.value = np.zeros(0)

    def __setstate__(self, state: tuple[object, tuple[int, ...], object, bool, bytes]) -> None:
        """(version, shape, dtype, columns first, bytes), as NumPy writes it."""
        _, shape, kind, fortran, data = state
        if not isinstance(kind, NumberType) or len(data) != math.prod(shape) * kind.dtype.itemsize:
            raise ValueError("an array in a checkpoint whose size is not that of its bytes")
        flat = np.frombuffer(bytes(data), kind.dtype)
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def array(*arguments: object) -> Array:
    """NumPy's ``_reconstruct``: an empty array whose state follows."""
    return Array()


def numpy_scalar(kind: NumberType, data: bytes = b"") -> object:
    """One of NumPy's numbers, as Python's."""
    return np.frombuffer(bytes(data), kind.dtype)[0].item()


def latin1(text: object, encoding: object = "latin1") -> bytes:
    """``_codecs.encode``, by which older pickles write bytes."""
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError(f"text encoded as {str(encoding)[:20]!r} in a checkpoint")
    return text.encode("latin1")


STAND_INS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    *((array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((numpy_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    (Array, "numpy.ndarray"),
    (NumberType, "numpy.dtype"),
    (latin1, "_codecs.encode"),
    *(
        (Settings, name)
        for name in (
            *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict"),
            *("pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath"),
            *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
            *("yacs.config.CfgNode", "fastreid.config.config.CfgNode", "easydict.EasyDict"),
            *("addict.addict.Dict", "mmengine.config.config.ConfigDict", "builtins.list"),
            *("builtins.dict", "builtins.int", "builtins.float", "builtins.str"),
            *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
            *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any"),
            *("omegaconf.nodes.AnyNode", "omegaconf.nodes.StringNode", "datetime.datetime"),
            *("omegaconf.nodes.IntegerNode", "omegaconf.nodes.FloatNode", "datetime.timedelta"),
            *("omegaconf.nodes.BooleanNode", "pytorch_lightning.utilities.parsing.AttributeDict"),
            *("lightning.fabric.utilities.data.AttributeDict",),
            *("lightning.pytorch.utilities.parsing.AttributeDict",),
            *("lightning_fabric.utilities.data.AttributeDict",),
        )
    ),
]
"""By their names in a file; a further allowed name is a new line."""


def as_tensor(value: object) -> torch.Tensor | None:
    """A plain tensor, or the stand-in of an array, as a tensor; None for anything else, such as a
    sparse or a quantised tensor, which no network takes."""
    if isinstance(value, torch.Tensor):
        plain = value.layout == torch.strided and not value.is_quantized
        return value if plain and value.device.type == "cpu" else None
    if isinstance(value, Array):
        native = value.value.astype(value.value.dtype.newbyteorder("="))
        return torch.from_numpy(native) if native.dtype.kind in "biuf" else None
    return None
