"""Drawing a synthetic spotted animal: its coat, its outline, and one photograph of it."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

CANVAS_WH_PX = (640, 448)
"""The animal is drawn once per flank on this canvas, then warped into each photograph."""

_BODY_COLOUR_RGB = (178, 142, 98)
_SPOT_COLOUR_RGB = (52, 38, 28)
# Centre, half axes and angle of the ellipses that make the trunk, neck and head, nose to the left.
_ELLIPSES = (
    ((350, 190), (185, 78), 0),
    ((215, 165), (88, 66), -25),
    ((130, 118), (58, 46), 0),
    ((84, 132), (30, 24), 10),
)
_POLYGONS = (
    ((108, 92), (112, 40), (142, 78)),
    ((140, 82), (158, 36), (172, 92)),
    ((520, 160), (572, 150), (586, 176), (530, 196)),
    ((208, 210), (262, 220), (252, 330), (256, 404), (222, 404), (222, 330)),
    ((268, 225), (310, 228), (296, 330), (298, 396), (266, 396), (268, 330)),
    ((420, 220), (478, 214), (474, 310), (484, 396), (452, 396), (440, 318)),
    ((470, 205), (530, 190), (522, 300), (534, 404), (498, 404), (492, 312)),
)


@lru_cache(maxsize=1)
def outline() -> np.ndarray:
    """float32 (H, W): 1 on the animal, 0 outside, soft at the edge."""
    width, height = CANVAS_WH_PX
    mask = np.zeros((height, width), np.uint8)
    for (x, y), axes, angle in _ELLIPSES:
        cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
    for polygon in _POLYGONS:
        cv2.fillPoly(mask, [np.array(polygon, np.int32)], 255, cv2.LINE_AA)
    return cv2.GaussianBlur(mask, (0, 0), 1.2).astype(np.float32) / 255.0


@lru_cache(maxsize=64)
def coat(seed: int, identity: int, flank: int) -> np.ndarray:
    """uint8 RGB (H, W, 3): the coat of one flank of one animal, the same in every photograph.

    Spots and rosettes are on a jittered grid; number, place, size, shape and turn differ from
    animal to animal and between the two flanks, as in nature. Colours are the same for all.
    """
    random = np.random.default_rng([seed, 1, identity, flank])
    width, height = CANVAS_WH_PX
    shade = cv2.resize(random.normal(0, 9, (7, 10)).astype(np.float32), (width, height))
    belly = np.linspace(8, -26, height, dtype=np.float32)[:, None]
    base = np.array(_BODY_COLOUR_RGB, np.float32) + (shade + belly)[..., None]
    image = np.clip(base, 0, 255).astype(np.uint8)
    for row in range(8, height, 38):
        for column in range(8, width, 40):
            if random.random() > 0.22:
                x, y = (np.array([column, row]) + random.uniform(-15, 15, 2)).astype(int)
                _draw_spot(image, int(x), int(y), random)
    cv2.ellipse(image, (122, 108), (5, 5), 0, 0, 360, (15, 12, 10), -1, cv2.LINE_AA)
    return image


def _draw_spot(image: np.ndarray, x: int, y: int, random: np.random.Generator) -> None:
    long = int(random.integers(6, 17))
    short = max(4, int(long * random.uniform(0.45, 1.0)))
    turn = float(random.uniform(0, 180))
    if long > 11 and random.random() < 0.5:
        start = float(random.uniform(0, 360))
        end = start + float(random.uniform(220, 330))
        cv2.ellipse(
            image, (x, y), (long, short), turn, start, end, _SPOT_COLOUR_RGB, 5, cv2.LINE_AA
        )
    else:
        cv2.ellipse(image, (x, y), (long, short), turn, 0, 360, _SPOT_COLOUR_RGB, -1, cv2.LINE_AA)


@lru_cache(maxsize=16)
def background(seed: int, trap: int, width: int, height: int) -> np.ndarray:
    """uint8 RGB (H, W, 3): the scene in front of one camera trap, the same for all animals."""
    random = np.random.default_rng([seed, 2, trap])
    image = np.zeros((height, width, 3), np.float32)
    ground = np.array(random.uniform((60, 70, 40), (130, 120, 90)), np.float32)
    for cells, strength in ((4, 30), (12, 22), (40, 16), (120, 12)):
        noise = random.normal(0, strength, (cells, cells, 1)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    image = np.clip(image + ground, 0, 255).astype(np.uint8)
    for _ in range(60):
        x, y = int(random.integers(0, width)), int(random.integers(0, height))
        tone = tuple(float(c) for c in ground * random.uniform(0.4, 1.3))
        if random.random() < 0.5:
            axes = (int(random.integers(3, 22)), int(random.integers(2, 12)))
            cv2.ellipse(image, (x, y), axes, float(random.uniform(0, 180)), 0, 360, tone, -1)
        else:
            end = (x + int(random.integers(-50, 50)), y - int(random.integers(20, 140)))
            cv2.line(image, (x, y), end, tone, int(random.integers(1, 6)), cv2.LINE_AA)
    return image


def render_image(
    coat_HWC: np.ndarray,
    scene_HWC: np.ndarray,
    *,
    facing_right: bool,
    encounter_random: np.random.Generator,
    image_random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One photograph, uint8 RGB (H, W, 3), and the animal's visible pixels, bool (H, W).

    Light, place and size are drawn from the encounter's generator, so that a burst looks alike;
    pose, blur and plants in front from the image's.
    """
    height, width = scene_HWC.shape[:2]
    map_x, map_y = _pose(width, height, facing_right, encounter_random, image_random)
    alpha = cv2.remap(outline(), map_x, map_y, cv2.INTER_LINEAR)
    animal = cv2.remap(coat_HWC, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    night = encounter_random.random() < 0.25
    gain, offset = encounter_random.uniform(0.75, 1.2), encounter_random.uniform(-18, 18)
    warmth = encounter_random.uniform(0.92, 1.08)
    picture = scene_HWC + alpha[..., None] * (animal.astype(np.float32) - scene_HWC)
    picture *= np.array([warmth, 1.0, 1.0 / warmth], np.float32)
    visible = alpha >= 0.5
    _occlude(picture, visible, image_random)
    picture = picture * gain + offset
    if night:
        picture = np.repeat(picture @ np.array([[0.3], [0.59], [0.11]], np.float32), 3, axis=2)
    blur = image_random.uniform(0.0, 1.1)
    if blur > 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    noise = image_random.normal(0, 4, (height, width, 1)).astype(np.float32)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), visible


def _pose(
    width: int,
    height: int,
    facing_right: bool,
    encounter_random: np.random.Generator,
    image_random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of the photograph, its x and its y on the canvas."""
    canvas_w, canvas_h = CANVAS_WH_PX
    scale = (
        encounter_random.uniform(0.72, 0.98) * width / canvas_w * image_random.uniform(0.95, 1.05)
    )
    stretch = image_random.uniform(0.9, 1.08)
    turn = np.deg2rad(image_random.uniform(-10, 10))
    centre = np.array([width / 2, height / 2]) + encounter_random.uniform(-0.07, 0.07, 2) * width
    centre += image_random.uniform(-0.03, 0.03, 2) * width
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    u = (np.cos(turn) * x + np.sin(turn) * y) / (scale * stretch)
    v = (-np.sin(turn) * x + np.cos(turn) * y) / scale
    bend, phase = image_random.uniform(-14, 14), image_random.uniform(0, 2 * np.pi)
    v = v + bend * np.sin(u / 160.0 + phase)
    u = u * (1 + image_random.uniform(-0.00025, 0.00025) * v)
    u = -u if facing_right else u
    return (u + canvas_w / 2).astype(np.float32), (v + canvas_h / 2).astype(np.float32)


def _occlude(picture: np.ndarray, visible: np.ndarray, random: np.random.Generator) -> None:
    """Draw grass and a branch in front of the animal, and remove them from its visible pixels."""
    height, width = visible.shape
    front = np.zeros((height, width), np.uint8)
    for _ in range(int(random.integers(6, 22))):
        x = int(random.integers(0, width))
        tip = (x + int(random.integers(-25, 25)), height - int(random.integers(20, height // 3)))
        cv2.line(front, (x, height), tip, 255, int(random.integers(1, 4)), cv2.LINE_AA)
    if random.random() < 0.35:
        left, right = (int(v) for v in random.integers(0, height, 2))
        cv2.line(front, (0, left), (width, right), 255, int(random.integers(4, 11)), cv2.LINE_AA)
    alpha = front.astype(np.float32)[..., None] / 255.0
    picture += alpha * (np.array([70, 84, 44], np.float32) - picture)
    visible &= front < 128
