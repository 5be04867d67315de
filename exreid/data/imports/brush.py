"""The run lengths of Label Studio's brush: those of the JavaScript package @thi.ng/rle-pack."""

from __future__ import annotations

import numpy as np

from exreid.data.masks import MAX_MASK_PIXELS
from exreid.errors import MetadataError

CHANNELS = 4  # red, green, blue, alpha; the brush paints all four


def decode_brush(rle: object, shape_HW: tuple[int, int], place: str) -> np.ndarray:
    """The pixels that a brush has painted, bool (H, W).

    A bit stream: 32 bits, the number of values; 5 bits, the bits of a value less 1; four times 4
    bits, the bits of each kind of length less 1. Then pieces: a bit (1: one value is repeated, 0:
    each value follows), 2 bits (the kind of length), the length less 1, the value or values.
    MetadataError, with its place, if the stream is damaged or of another size.
    """
    height, width = shape_HW
    if (
        not isinstance(rle, list)
        or not rle
        or not all(type(byte) is int and 0 <= byte <= 255 for byte in rle)
    ):
        raise MetadataError(f"{place}: its brush has no run lengths, a list of bytes.")
    if height * width > MAX_MASK_PIXELS:
        raise MetadataError(f"{place}: its brush is of more than {MAX_MASK_PIXELS} pixels.")
    try:
        values = _unpacked(np.unpackbits(np.array(rle, dtype=np.uint8)), CHANNELS * height * width)
    except ValueError as error:
        raise MetadataError(f"{place}: its brush {error}.") from error
    return values.reshape(height, width, CHANNELS)[:, :, 3] > 0


def _unpacked(bits: np.ndarray, expected: int) -> np.ndarray:
    """The values; ValueError if the stream ends early or has another number of values."""
    position = 0

    def read(count: int) -> int:
        nonlocal position
        if position + count > len(bits):
            raise ValueError("is cut off")
        number = 0
        for bit in bits[position : position + count].tolist():
            number = number * 2 + bit
        position += count
        return number

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != expected:
        raise ValueError(f"has {total} values, and its photograph {expected} (4 for each pixel)")
    values = np.zeros(total, dtype=np.uint32)
    done = 0
    while done < total:
        repeated = read(1)
        end = done + 1 + read(lengths[read(2)])
        if end > total:
            raise ValueError("has a run beyond its end")
        if repeated:
            values[done:end] = read(word)
        else:
            for i in range(done, end):
                values[i] = read(word)
        done = end
    return values
