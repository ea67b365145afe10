"""Outlines of the generated scenes."""

import numpy as np

SHAPES = ("disc", "star", "cross", "ring")  # what the classes are
OTHER_SHAPES = ("triangle", "square", "bar", "crescent", "half-disc", "wedge")  # distractors only


def outline(rng: np.random.Generator, shape: str, diameter: float) -> list[np.ndarray]:
    """Closed outlines (N, 2) around the origin, randomly turned and slightly squeezed; two of them make a hole."""
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    half = circle[:21]
    if shape == "disc":
        parts = [circle * 0.95]
    elif shape == "triangle":
        parts = [circle[[0, 13, 27]] * 1.15]
    elif shape == "square":
        parts = [circle[::10] * 1.15]
    elif shape == "star":
        inner = rng.uniform(0.4, 0.48)
        parts = [circle[::4] * np.where(np.arange(10) % 2, inner, 1.15)[:, None]]
    elif shape == "ring":
        parts = [circle, circle * rng.uniform(0.45, 0.65)]
    elif shape == "cross":
        arm = rng.uniform(0.2, 0.34)
        corner = np.array([[1, -arm], [1, arm], [arm, arm]])
        quarter = np.array([[0, -1], [1, 0]])
        parts = [np.concatenate([corner @ np.linalg.matrix_power(quarter, k) for k in (0, 3, 2, 1)])]
    elif shape == "crescent":
        parts = [np.concatenate([half, half[::-1] * (1, rng.uniform(0.25, 0.5))])]
    elif shape == "bar":
        width = rng.uniform(0.15, 0.3)
        parts = [np.array([[-1, -width], [1, -width], [1, width], [-1, width]])]
    elif shape == "half-disc":
        parts = [half - (0, 0.4)]
    elif shape == "wedge":
        parts = [np.concatenate([circle[: int(rng.integers(24, 34))], np.zeros((1, 2))])]
    else:
        raise ValueError(f"Expected 'shape' to be one of {SHAPES + OTHER_SHAPES}, but got {shape!r}")
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.85, 1.0)])
    return [part * squeeze @ turn * (diameter / 2) for part in parts]
