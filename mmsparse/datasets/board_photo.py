"""From a board's masks to a picture, as a camera above the line takes it.

Nothing that is drawn from ``rng`` depends on the conductors: without its defects a board has the same picture
elsewhere.
"""

import cv2
import numpy as np

from .board_layout import Layout, draw_direction
from .board_style import Colour, Style

_GREY = np.array((0.114, 0.587, 0.299), np.float32)
_LAMINATE, _HOLE = (62.0, 96.0, 104.0), (18.0, 20.0, 22.0)
_BRIGHT, _DARK = (215.0, 220.0, 222.0), (24.0, 26.0, 28.0)  # dust and scratches


def photograph(rng: np.random.Generator, layout: Layout, copper: np.ndarray, style: Style, colour: bool) -> np.ndarray:
    """A picture (S, S, 3) uint8 BGR, or (S, S) in grey. ``copper`` is the layout's, or what defects made of it."""
    size = len(copper)

    def paint(tone: Colour, jitter: float = 0.0) -> np.ndarray:
        mixed = np.array(tone, np.float32) * np.float32(1 + jitter * rng.standard_normal())
        return mixed if colour else mixed @ _GREY

    def slow(cells: int) -> np.ndarray:
        return cv2.resize(rng.standard_normal((cells, cells), dtype=np.float32), (size, size))

    def spread(field: np.ndarray) -> np.ndarray:  # over the channels
        return field[..., None] if colour else field

    substrate = paint(style.substrate[rng.integers(len(style.substrate))], 0.12)
    tone = slow(max(2, size // 40)) * rng.uniform(*style.mottle) + slow(size // 2) * rng.uniform(*style.weave)
    soft = cv2.GaussianBlur(copper, (0, 0), 0.8).astype(np.float32) / 255
    tone += soft * rng.uniform(*style.copper_contrast) * (1 + 0.12 * slow(4))
    right, down = (style.edge_relief / 3 * draw_direction(rng)).tolist()
    tone += right * cv2.Sobel(soft, -1, 1, 0) + down * cv2.Sobel(soft, -1, 0, 1)
    image = substrate * (1 + spread(tone) / substrate.mean())

    brushed = 1 + 0.05 * slow(size // 3)
    metal = paint(_LAMINATE, 0.1) + spread(soft) * (paint(style.bare, 0.08) * spread(brushed) - paint(_LAMINATE))
    image = _cover(image, metal, spread(layout.opened.astype(np.float32) / 255))
    image = _cover(image, paint(_HOLE, 0.2), spread(layout.holes.astype(np.float32) / 255))
    worn = np.clip(rng.uniform(0.6, 0.95) + 0.15 * slow(size // 8), 0, 1)
    image = _cover(image, paint(style.silk, 0.06), spread(layout.silk.astype(np.float32) / 255 * worn))
    for paints, lint in ((_BRIGHT, _dirt(rng, size, style)), (_DARK, _dirt(rng, size, style))):
        image = _cover(image, paint(paints), spread(lint.astype(np.float32) / 255))

    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    right, down = draw_direction(rng).tolist()
    light = 1 - rng.uniform(*style.shade) * (right * ramp[None, :] + down * ramp[:, None] + 0.5) + 0.04 * slow(4)
    image = image * spread(light * rng.uniform(0.85, 1.2))
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*style.blur))
    image += rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(*style.noise)
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _cover(image: np.ndarray, coat: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return image + alpha * (coat - image)


def _dirt(rng: np.random.Generator, size: int, style: Style) -> np.ndarray:
    """Specks, lint and scratches, more or less transparent."""
    layer = np.zeros((size, size), np.uint8)
    share = (size / 512) ** 2 / 2  # half of it is bright, half dark
    for x, y in rng.uniform(0, size, (rng.poisson(rng.uniform(*style.dust) * share), 2)):
        strength = int(rng.integers(70, 230))
        if rng.random() < 0.7:
            axes = tuple(int(v) for v in rng.uniform(1, 4.5, 2) * 16)
            angle = float(rng.uniform(0, 180))
            points = cv2.ellipse2Poly((int(x * 16), int(y * 16)), axes, int(angle), 0, 360, 40)
            cv2.fillPoly(layer, [points], strength, cv2.LINE_AA, 4)
        else:
            _stroke(rng, layer, np.array([x, y]), rng.uniform(8, 35), 0.5, strength)
    for place in rng.uniform(0, size, (rng.poisson(rng.uniform(*style.scratches) * share), 2)):
        _stroke(rng, layer, place, rng.uniform(30, 220), 0.06, int(rng.integers(40, 130)))
    return layer


def _stroke(
    rng: np.random.Generator, layer: np.ndarray, place: np.ndarray, length: float, bend: float, strength: int
) -> None:
    angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 8))
    points = place + np.cumsum(length / 8 * np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(layer, [fixed], False, strength, 1, cv2.LINE_AA, 4)
