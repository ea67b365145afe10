"""Generated scenes: small cluttered pictures in which saying where the objects are, and what, takes work.

A class is a shape and a texture together (a striped disc, a plain disc, ...). Distractors wear other textures on the
same shapes and, now and then, the same textures on other shapes, and colours are drawn near the ground's, so that
neither colour nor edge energy nor one of the two cues alone gives an object away.

The slow path matters here: trained with the recipe of configs/demo, the dense detector reaches a bbox mAP of 0.155 on
held-out scenes, the same network with every routed location on the fast path 0.048 (the commands are in that folder's
README).

``render_scene`` is a pure function of its arguments: each picture can be made again alone, in any order. (Other
builds of numpy or OpenCV may round a few pixels differently.)
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from .pictures import picture_seed
from .shapes import OTHER_SHAPES, SHAPES, outline
from .textures import (
    GROUND_TEXTURES,
    OBJECT_TEXTURES,
    background,
    blend,
    colour_pair,
    foreign_texture,
    pattern,
    relight,
)

CLASSES = tuple(f"{texture}-{shape}" for shape in SHAPES for texture in OBJECT_TEXTURES)
# Value v of a label map means SEG_CLASSES[v - 1]; 0 is unlabelled (a crowd), as in ADE20K with reduce_zero_label.
SEG_CLASSES = ("background", *CLASSES)
# RGB for SEG_CLASSES; a detector's palette is PALETTE[1:].
PALETTE = (
    (120, 120, 120), (220, 20, 60), (255, 140, 150), (0, 0, 200), (110, 170, 255),
    (0, 130, 0), (140, 230, 100), (190, 120, 0), (250, 220, 0),
)  # fmt: skip

# Difficulty, all in one place. Lengths are fractions of the picture's side.
OBJECT_SIZES = (0.1, 0.5)  # diameter, drawn log-uniformly
NUM_OBJECTS = (2, 6)  # inclusive
TEXTURE_CONTRAST = (90.0, 170.0)  # grey levels between the two colours of a pattern
COLOUR_NEAR_GROUND = 0.1  # share of objects painted in about the colour they cover
NUM_DISTRACTORS = (1, 3)  # below the objects
NUM_FRONT_DISTRACTORS = (0, 1)  # above them
MIN_VISIBLE = 0.5  # no object is covered or cut by the border beyond this
NOISE_LEVEL = 6.0  # grey levels, at most
EMPTY_SHARE = 0.06
CROWD_SHARE = 0.05
CROWD_SIZE = (9, 18)  # members

_PLACEMENT_TRIES = 8
_MIN_PERIOD = 5.0  # pixels; finer patterns alias away
_MIN_PIXELS = 16
_MIN_DIAMETER = 8.0  # pixels; matters for pictures below 80 px only


@dataclass(frozen=True)
class Instance:
    """An object: ``category`` indexes CLASSES, ``mask`` (S, S) is its visible part, ``bbox`` = (x, y, w, h) of it."""

    category: int
    mask: np.ndarray
    bbox: tuple[int, int, int, int]
    iscrowd: bool = False

    @property
    def area(self) -> int:
        return int(self.mask.sum())


@dataclass(frozen=True)
class Scene:
    """A picture (S, S, 3) uint8 BGR, its label map (S, S) uint8 and its objects."""

    image: np.ndarray
    labels: np.ndarray
    instances: tuple[Instance, ...]


@dataclass
class _Item:
    category: int
    iscrowd: bool
    full_area: float


@dataclass
class _Canvas:
    """The picture while it is painted. ``owner`` (S, S) holds the number of the item seen at a pixel, 0 = ground."""

    image: np.ndarray
    owner: np.ndarray
    items: list[_Item] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.image)


def check_size(size: int) -> None:
    if size < 64 or size % 32:
        raise ValueError(f"Expected 'size' to be a multiple of 32 and at least 64, but got {size}")


def render_scene(seed: int, split: str, index: int, size: int) -> Scene:
    """Paint picture ``index`` of a split; the same arguments give the same bytes."""
    check_size(size)
    rng = np.random.default_rng(picture_seed(seed, split, index))
    canvas = _Canvas(background(rng, size, TEXTURE_CONTRAST[1]), np.zeros((size, size), np.int16))
    for _ in range(rng.integers(*NUM_DISTRACTORS, endpoint=True)):
        _paint_distractor(canvas, rng)
    if rng.random() >= EMPTY_SHARE:
        if rng.random() < CROWD_SHARE / (1 - EMPTY_SHARE):
            _paint_crowd(canvas, rng)
        for _ in range(rng.integers(*NUM_OBJECTS, endpoint=True)):
            category = int(rng.integers(len(CLASSES)))
            _paint_object(canvas, rng, category)
    for _ in range(rng.integers(*NUM_FRONT_DISTRACTORS, endpoint=True)):
        _paint_other_shape(canvas, rng)
    instances, labels = _read_off(canvas)
    return Scene(relight(rng, canvas.image, NOISE_LEVEL), labels, instances)


def _read_off(canvas: _Canvas) -> tuple[tuple[Instance, ...], np.ndarray]:
    labels = np.ones_like(canvas.owner, dtype=np.uint8)
    instances = []
    for number, item in enumerate(canvas.items, start=1):
        mask = canvas.owner == number
        if item.iscrowd:
            # A crowd is a region, not a sum of outlines: close the gaps, but take nothing from its neighbours.
            closed = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            mask = mask | (closed & (canvas.owner == 0))
        labels[mask] = 0 if item.iscrowd else item.category + 2
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(xs[0]), int(ys[0])
        bbox = (x, y, int(xs[-1]) - x + 1, int(ys[-1]) - y + 1)
        instances.append(Instance(item.category, mask, bbox, item.iscrowd))
    return tuple(instances), labels


def _paint_object(canvas: _Canvas, rng: np.random.Generator, category: int) -> None:
    """Put one object above all others at a place where it hides none of them too much; none found, none painted."""
    diameter = _draw_diameter(canvas, rng)
    contours = outline(rng, SHAPES[category // len(OBJECT_TEXTURES)], diameter)
    for _ in range(_PLACEMENT_TRIES):
        centre = rng.uniform(0.02, 0.98, 2) * canvas.size
        area = _stamp(
            canvas,
            rng,
            contours,
            centre,
            OBJECT_TEXTURES[category % len(OBJECT_TEXTURES)],
            diameter,
            len(canvas.items) + 1,
        )
        if area:
            canvas.items.append(_Item(category, False, area))
            return


def _paint_crowd(canvas: _Canvas, rng: np.random.Generator) -> None:
    category = int(rng.integers(len(CLASSES)))
    middle = rng.uniform(0.2, 0.8, 2) * canvas.size
    for _ in range(rng.integers(*CROWD_SIZE, endpoint=True)):
        diameter = max(canvas.size * OBJECT_SIZES[0] * rng.uniform(1.0, 1.5), _MIN_DIAMETER)
        centre = np.clip(middle + 0.1 * canvas.size * rng.standard_normal(2), 0.05 * canvas.size, 0.95 * canvas.size)
        contours = outline(rng, SHAPES[category // len(OBJECT_TEXTURES)], diameter)
        # The first item there is. Its members may hide each other: it is not listed before all are painted.
        _stamp(canvas, rng, contours, centre, OBJECT_TEXTURES[category % len(OBJECT_TEXTURES)], diameter, number=1)
    if canvas.owner.any():
        canvas.items.append(_Item(category, True, float((canvas.owner == 1).sum())))


def _paint_distractor(canvas: _Canvas, rng: np.random.Generator) -> None:
    kind = rng.random()
    if kind < 0.35:
        _paint_stroke(canvas, rng)
    elif kind < 0.7:
        _paint_other_shape(canvas, rng)
    else:  # the shape of a class in a texture of none
        diameter = _draw_diameter(canvas, rng)
        contours = outline(rng, SHAPES[rng.integers(len(SHAPES))], diameter)
        texture = GROUND_TEXTURES[rng.integers(len(GROUND_TEXTURES))]
        _stamp(canvas, rng, contours, rng.uniform(0, 1, 2) * canvas.size, texture, diameter, number=0)


def _paint_other_shape(canvas: _Canvas, rng: np.random.Generator) -> None:
    diameter = _draw_diameter(canvas, rng) * 0.8
    contours = outline(rng, OTHER_SHAPES[rng.integers(len(OTHER_SHAPES))], diameter)
    _stamp(canvas, rng, contours, rng.uniform(0, 1, 2) * canvas.size, foreign_texture(rng), diameter, number=0)


def _paint_stroke(canvas: _Canvas, rng: np.random.Generator) -> None:
    """A line, an arc or an empty outline, one to three pixels wide at 160 px."""
    size = canvas.size
    colour = _ground_colour(canvas, rng, rng.uniform(0, size, 2), 0.1 * size).tolist()
    width = max(1, round(size / 160 * rng.uniform(0.6, 3.2)))
    points = rng.uniform(-0.1, 1.1, (2, 2)) * size
    kind = rng.integers(3)
    if kind == 0:
        start, end = (tuple(round(float(v)) for v in point) for point in points)
        cv2.line(canvas.image, start, end, colour, width, cv2.LINE_AA)
    elif kind == 1:
        axes = tuple(round(float(v)) for v in rng.uniform(0.05, 0.4, 2) * size)
        start = float(rng.uniform(0, 360))
        centre = tuple(round(float(v)) for v in points[0])
        angle, end = float(rng.uniform(0, 180)), start + float(rng.uniform(60, 250))
        cv2.ellipse(canvas.image, centre, axes, angle, start, end, colour, width, cv2.LINE_AA)
    else:
        contours = outline(rng, SHAPES[rng.integers(len(SHAPES))], size * rng.uniform(0.08, 0.35))
        fixed = [np.round((contour + points[0]) * 16).astype(np.int32) for contour in contours]
        cv2.polylines(canvas.image, fixed, True, colour, width, cv2.LINE_AA, shift=4)


def _stamp(
    canvas: _Canvas,
    rng: np.random.Generator,
    contours: list[np.ndarray],
    centre: np.ndarray,
    texture: str,
    diameter: float,
    number: int,
) -> float:
    """Paint a filled outline and make item ``number`` own its pixels; returns its full area, 0.0 if refused."""
    points = np.concatenate(contours) + centre
    x0, y0 = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, canvas.size)
    x1, y1 = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, canvas.size)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return 0.0
    alpha = np.zeros((y1 - y0, x1 - x0), np.uint8)
    fixed = [np.round((contour + centre - (x0, y0)) * 16).astype(np.int32) for contour in contours]
    cv2.fillPoly(alpha, fixed, 255, cv2.LINE_AA, shift=4)
    mask = alpha > 127
    area = sum(abs(cv2.contourArea(contour.astype(np.float32))) for contour in contours)
    window = (slice(y0, y1), slice(x0, x1))
    needed = max(MIN_VISIBLE * area, _MIN_PIXELS) if number else 0
    if mask.sum() < needed or _hides_too_much(canvas, window, mask):
        return 0.0
    base = _ground_colour(canvas, rng, centre, diameter)
    period = max(diameter * rng.uniform(0.22, 0.36), _MIN_PERIOD)
    values = pattern(rng, texture, (y0, x0), mask.shape, period)
    coat = blend(values, colour_pair(rng, base, rng.uniform(*TEXTURE_CONTRAST)))
    canvas.image[window] += (alpha[..., None] / np.float32(255)) * (coat - canvas.image[window])
    canvas.owner[window][mask] = number
    return float(area)


def _hides_too_much(canvas: _Canvas, window: tuple[slice, slice], mask: np.ndarray) -> bool:
    covered = np.bincount(canvas.owner[window][mask], minlength=len(canvas.items) + 1)
    for number, item in enumerate(canvas.items, start=1):
        if covered[number]:
            left = int((canvas.owner == number).sum()) - covered[number]
            if left < max(MIN_VISIBLE * item.full_area, _MIN_PIXELS):
                return True
    return False


def _draw_diameter(canvas: _Canvas, rng: np.random.Generator) -> float:
    smallest, largest = np.log(OBJECT_SIZES)
    return max(float(canvas.size * np.exp(rng.uniform(smallest, largest))), _MIN_DIAMETER)


def _ground_colour(canvas: _Canvas, rng: np.random.Generator, centre: np.ndarray, diameter: float) -> np.ndarray:
    """A colour (3,) for something at ``centre`` = (x, y): often about what lies below, else any."""
    if rng.random() >= COLOUR_NEAR_GROUND:
        return rng.uniform(20, 235, 3)
    radius = max(2, int(diameter / 2))
    x, y = np.clip(centre, 0, canvas.size - 1).astype(int)
    below = canvas.image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
    return below.mean(axis=(0, 1)) + rng.normal(0, 14, 3)
