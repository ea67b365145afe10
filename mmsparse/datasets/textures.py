"""Patterns, backgrounds and lighting of the generated scenes: float32 pictures with values in [0, 255]."""

import cv2
import numpy as np

OBJECT_TEXTURES = ("striped", "plain")
GROUND_TEXTURES = ("mottled", "dotted")
TEXTURES = OBJECT_TEXTURES + GROUND_TEXTURES
DECEPTION = 0.05  # share of background regions and foreign shapes that wear an object's texture


def noise(rng: np.random.Generator, size: int, coarsest: int, octaves: int, channels: int = 1) -> np.ndarray:
    """Smooth random field with about zero mean and unit deviation, (size, size) or (size, size, channels)."""
    field = np.zeros((size, size) if channels == 1 else (size, size, channels), np.float32)
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, size)
        grid = rng.standard_normal((cells, cells, channels), dtype=np.float32)
        field += cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR).reshape(field.shape) / 1.6**octave
    return (field - field.mean()) / (field.std() + 1e-6)


def pattern(
    rng: np.random.Generator, kind: str, top_left: tuple[int, int], shape: tuple[int, int], period: float
) -> np.ndarray:
    """Pattern in [0, 1] on the window ``shape`` = (height, width) at ``top_left`` = (y, x).

    Random angle and phase; half of all patterns are inverted, so that the mean tells nothing about the kind.
    """
    angle, phase_u, phase_v = rng.uniform(0, 2 * np.pi), rng.uniform(0, period), rng.uniform(0, period)
    inverted = rng.random() < 0.5
    ys = np.arange(top_left[0], top_left[0] + shape[0], dtype=np.float32)[:, None]
    xs = np.arange(top_left[1], top_left[1] + shape[1], dtype=np.float32)[None, :]
    u = xs * np.cos(angle) + ys * np.sin(angle) + phase_u
    v = ys * np.cos(angle) - xs * np.sin(angle) + phase_v
    if kind == "striped":
        # Distance to the middle of the stripe in pixels; edges one pixel soft, as a camera would show them.
        values = np.abs(u % period - period / 2) - period / 4
    elif kind == "dotted":
        row = np.floor(v / period)
        du = (u + row % 2 * period / 2) % period - period / 2
        dv = v - row * period - period / 2
        values = np.sqrt(du * du + dv * dv) - 0.38 * period
    elif kind == "plain":
        return np.full(shape, float(inverted), np.float32)
    elif kind == "mottled":
        cells = (max(2, round(shape[0] / period)), max(2, round(shape[1] / period)))
        grid = rng.random(cells, dtype=np.float32)
        return np.clip(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_LINEAR), 0, 1)
    else:
        raise ValueError(f"Expected 'kind' to be one of {TEXTURES}, but got {kind!r}")
    values = np.clip(0.5 - values, 0, 1).astype(np.float32)
    return 1 - values if inverted else values


def foreign_texture(rng: np.random.Generator) -> str:
    """What something that is no object wears: now and then an object's texture."""
    kinds = OBJECT_TEXTURES if rng.random() < DECEPTION else GROUND_TEXTURES
    return kinds[rng.integers(len(kinds))]


def colour_pair(rng: np.random.Generator, base: np.ndarray, contrast: float) -> np.ndarray:
    """Two colours (2, 3) around ``base`` (3,) that differ by ``contrast`` grey levels and a little in hue."""
    step = contrast * (1 + 0.35 * rng.standard_normal(3)) / 2
    middle = np.clip(base, contrast / 2 + 5, 250 - contrast / 2)
    return np.stack([middle - step, middle + step]).astype(np.float32)


def blend(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Pattern (h, w) and two colours (2, 3) -> picture (h, w, 3)."""
    return colours[0] + values[..., None] * (colours[1] - colours[0])


def background(rng: np.random.Generator, size: int, contrast: float) -> np.ndarray:
    """Cluttered ground (size, size, 3): noise between palette colours, with regions that wear object-like textures."""
    palette = rng.uniform(40, 215, 3) + rng.uniform(10, 45) * rng.standard_normal((4, 3))
    palette = np.clip(palette, 10, 245).astype(np.float32)
    fields = noise(rng, size, coarsest=int(rng.integers(2, 5)), octaves=5, channels=3)
    weight = 1 / (1 + np.exp(-1.5 * fields[..., :1]))
    image = palette[0] + weight * (palette[1] - palette[0])
    # Regions with sharp borders: edge energy must not mean "object".
    for colour, field in ((palette[2], fields[..., 1]), (palette[3], fields[..., 2])):
        region = np.clip((field - rng.uniform(0.2, 1.0)) * rng.uniform(2, 12), 0, 1)[..., None]
        values = pattern(rng, foreign_texture(rng), (0, 0), (size, size), period=size * rng.uniform(0.025, 0.09))
        coat = blend(values, colour_pair(rng, colour, contrast * rng.uniform(0.2, 0.9)))
        image = image + region * (coat - image)
    slope = rng.uniform(-30, 30, 2).astype(np.float32)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    image += (ramp[:, None] * slope[0] + ramp[None, :] * slope[1])[..., None]
    return np.clip(image + rng.uniform(2, 10) * fields[..., 1:2], 0, 255)


def relight(rng: np.random.Generator, image: np.ndarray, noise_level: float) -> np.ndarray:
    """What a camera adds: a soft shadow across the picture, gain, gamma, a little blur and noise. Returns uint8."""
    size = len(image)
    angle, middle = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3)
    softness, depth = rng.uniform(0.03, 0.3), rng.uniform(0, 0.55)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    along = ramp[:, None] * np.sin(angle) + ramp[None, :] * np.cos(angle)
    shade = 1 - depth / (1 + np.exp(np.clip((along - middle) / softness, -30, 30)))
    light = np.clip(image / 255 * shade[..., None] * rng.uniform(0.8, 1.12), 0, 1).astype(np.float32)
    light = cv2.pow(light, float(np.exp(rng.uniform(-0.35, 0.35))))
    blur = rng.uniform(0.0, 0.6)
    if blur > 0.25:
        light = cv2.GaussianBlur(light, (0, 0), blur)
    grain = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(0.2, 1.0) * noise_level
    return np.clip(light * 255 + grain + 0.5, 0, 255).astype(np.uint8)
