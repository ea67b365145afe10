"""Draws a routed board into masks: conductors, openings of the solder mask, drilled holes, silk screen."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from .board_router import STEPS, Pad, Wiring, route
from .board_style import Style

_SHIFT = 4  # binary digits behind the point in OpenCV's coordinates
NAMES = ("R", "C", "U", "L", "D", "Q", "J", "TP", "SW", "X")
PHRASES = ("REV", "GND", "VCC", "3V3", "TX", "RX", "SDA", "CLK", "RST", "LOT", "94V-0", "MADE", "TOP", "+", "-")


@dataclass
class Layout:
    """Masks (S, S) uint8 from 0 to 255 with soft edges, and where things are in pixels.

    ``traces`` (N, 5) are x, y, x, y and width of straight pieces, ``pads`` (M, 3) x, y and half of the shorter side.
    """

    copper: np.ndarray
    opened: np.ndarray
    holes: np.ndarray
    silk: np.ndarray
    traces: np.ndarray
    pads: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """From nodes to pixels."""

    turn: np.ndarray  # (2, 2), with the scale
    shift: np.ndarray  # (2,)
    angle: float

    def __call__(self, points: np.ndarray | list | tuple) -> np.ndarray:
        return np.asarray(points, float) @ self.turn + self.shift


def draw_layout(rng: np.random.Generator, size: int, style: Style) -> Layout:
    pitch = float(rng.uniform(*style.pitch))
    angle = float(np.deg2rad(rng.uniform(*style.tilt)))
    # Enough nodes for the corners of a turned picture.
    nodes = int(np.ceil(size / pitch * (abs(np.cos(angle)) + abs(np.sin(angle))))) + 3
    turn = pitch * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = size / 2 + rng.uniform(-0.5, 0.5, 2) * pitch - np.full(2, (nodes - 1) / 2) @ turn
    frame = _Frame(turn, shift, angle)
    wiring = route(rng, nodes, style.pad_width, style.round_pads, len(style.trace_widths))

    copper, opened, holes = (np.zeros((size, size), np.uint8) for _ in range(3))
    traces = _draw_traces(copper, wiring, frame, np.array(style.trace_widths) * pitch)
    for pad in wiring.pads:
        cv2.fillPoly(copper, [_fixed(_outline(pad, frame, pitch, 0.0))], 255, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(opened, [_fixed(_outline(pad, frame, pitch, 0.11))], 255, cv2.LINE_AA, _SHIFT)
        _disc(holes, frame(pad.node), pad.hole * pitch)
    _draw_vias(rng, copper, opened, holes, frame(np.reshape(wiring.vias, (-1, 2))), pitch)
    if rng.random() < style.pour_share:
        _pour(rng, copper, holes, pitch)
    cv2.min(copper, 255 - holes, dst=copper)
    silk = _draw_silk(rng, size, wiring, frame, pitch, style)
    cv2.min(silk, 255 - cv2.dilate(opened, np.ones((3, 3), np.uint8)), dst=silk)
    pads = np.array([[*frame(pad.node), min(pad.size) * pitch / 2] for pad in wiring.pads]).reshape(-1, 3)
    return Layout(copper, opened, holes, silk, traces, pads)


def _draw_traces(copper: np.ndarray, wiring: Wiring, frame: _Frame, widths: np.ndarray) -> np.ndarray:
    pieces = []
    for corners, width in wiring.paths:
        points, thick = frame(corners), max(3, round(widths[width]))
        cv2.polylines(copper, [_fixed(points)], False, 255, thick, cv2.LINE_AA, _SHIFT)
        pieces += [[*start, *end, thick] for start, end in pairwise(points)]
    return np.array(pieces).reshape(-1, 5)


def _draw_vias(
    rng: np.random.Generator, copper: np.ndarray, opened: np.ndarray, holes: np.ndarray, vias: np.ndarray, pitch: float
) -> None:
    outer, drill = pitch * rng.uniform(0.34, 0.4), pitch * rng.uniform(0.14, 0.2)
    is_opened = rng.random() < 0.5
    for via in vias:
        _disc(copper, via, outer)
        _disc(holes, via, drill)
        if is_opened:
            _disc(opened, via, outer + 0.05 * pitch)


def _pour(rng: np.random.Generator, copper: np.ndarray, holes: np.ndarray, pitch: float) -> None:
    """Fill what the traces leave of a part of the board; narrow and small pieces are left out, as by a CAD tool."""
    size = len(copper)
    region = np.zeros_like(copper)
    middle, radius = rng.uniform(0.1, 0.9, 2) * size, size * rng.uniform(0.3, 0.7)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 6))
    corners = middle + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    cv2.fillPoly(region, [_fixed(corners, 0)], 255)
    gap = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(0.3 * pitch) + 1,) * 2)
    region[cv2.dilate(cv2.max(copper, holes), gap) > 60] = 0
    region = cv2.morphologyEx(region, cv2.MORPH_OPEN, np.ones((7, 7), np.uint8))
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] > 12 * pitch**2
    keep[0] = False
    soft = cv2.GaussianBlur(keep[pieces].astype(np.uint8) * 255, (3, 3), 0)
    cv2.max(copper, soft, dst=copper)


def _outline(pad: Pad, frame: _Frame, pitch: float, grown: float) -> np.ndarray:
    """Corners (N, 2) in pixels of a pad that is ``grown`` nodes larger on all sides."""
    length, width = pad.size[0] / 2 + grown, pad.size[1] / 2 + grown
    if pad.rounded:
        turns = np.linspace(-np.pi / 2, np.pi / 2, 9)
        radius = min(length, width)
        cap = np.stack([length - radius + radius * np.cos(turns), (width - radius) * np.sign(turns)], axis=1)
        cap[:, 1] += radius * np.sin(turns)
        shape = np.concatenate([cap, -cap])
    else:
        shape = np.array([[length, width], [-length, width], [-length, -width], [length, -width]])
    along = np.array(STEPS[pad.direction])
    across = np.array([-along[1], along[0]])
    return frame(pad.node + shape @ np.stack([along, across]))


def _draw_silk(
    rng: np.random.Generator, size: int, wiring: Wiring, frame: _Frame, pitch: float, style: Style
) -> np.ndarray:
    silk = np.zeros((size, size), np.uint8)
    thick = int(rng.integers(1, 3))
    for start, end in wiring.bodies:
        low, high = np.array(start, float), np.array(end, float)
        narrow = (high - low) < 1  # parts in one row are outlined around their pads
        low, high = low + np.where(narrow, -0.8, 0.0), high + np.where(narrow, 0.8, 0.0)
        low, high = low - 0.85, high + 0.85
        corners = frame([low, (high[0], low[1]), high, (low[0], high[1])])
        if rng.random() < 0.8:
            cv2.polylines(silk, [_fixed(corners)], True, 255, thick, cv2.LINE_AA, _SHIFT)
        if rng.random() < 0.4:
            _disc(silk, frame(low - 0.4), 0.14 * pitch)
        name = f"{NAMES[rng.integers(len(NAMES))]}{rng.integers(1, 130)}"
        _write(rng, silk, name, frame(low + (0.0, -0.9)), frame.angle, pitch)
    for _ in range(rng.poisson(rng.uniform(*style.texts) * (size / 512) ** 2)):
        phrase = PHRASES[rng.integers(len(PHRASES))] + ("" if rng.random() < 0.5 else f" {rng.integers(1000)}")
        _write(rng, silk, phrase, rng.uniform(0, size, 2), frame.angle, pitch)
    return silk


def _write(
    rng: np.random.Generator, silk: np.ndarray, text: str, place: np.ndarray, angle: float, pitch: float
) -> None:
    """Text from ``place`` on, along the board's axes; strokes go missing as on a worn print."""
    scale, thick = pitch * rng.uniform(0.018, 0.03), int(rng.integers(1, 3))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    patch = np.zeros((height + below + 4, width + 4), np.uint8)
    cv2.putText(patch, text, (2, height + 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    angle += np.pi / 2 * rng.integers(4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0, width, width], [0, height, 0, height]], float)
    reach = np.ceil(np.abs(turn @ corners).max(axis=1)).astype(int) + 8
    low = np.clip(place.astype(int) - reach, 0, len(silk))
    high = np.clip(place.astype(int) + reach, 0, len(silk))
    if (high <= low).any():
        return
    window = silk[low[1] : high[1], low[0] : high[0]]
    moved = cv2.warpAffine(patch, np.column_stack([turn, place - low]), window.shape[::-1])
    if rng.random() < 0.3:
        moved[:, : int(rng.uniform(0, 0.7) * moved.shape[1])] = 0
    cv2.max(window, moved, dst=window)


def draw_direction(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _disc(mask: np.ndarray, centre: np.ndarray, radius: float) -> None:
    if radius > 0:
        x, y = np.round(centre * 2**_SHIFT).astype(int).tolist()
        cv2.circle(mask, (x, y), round(radius * 2**_SHIFT), 255, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def _fixed(points: np.ndarray, shift: int = _SHIFT) -> np.ndarray:
    return np.round(points * 2**shift).astype(np.int32)
