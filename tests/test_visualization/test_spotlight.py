"""A picture in the light of where its network worked."""

import cv2
import numpy as np

from mmsparse.visualization.spotlight import DARK, Shown, draw_spotlight


def test_what_took_the_cheap_path_lies_in_the_dark(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 2, (64, 64, 1), np.uint8).repeat(3, axis=2) * 100
    place = np.zeros((64, 64), np.float32)
    place[:, 32:] = 1.0
    nothing, one = np.zeros((0, 4)), np.array([[40.0, 20.0, 50.0, 30.0]])
    dense, plain = Shown("dense", nothing, [], nothing), Shown("routed", nothing, [], nothing)
    for name, routed in dict(
        a=plain, b=plain._replace(boxes=one, names=["spur"]), c=plain._replace(missed=one)
    ).items():
        draw_spotlight(tmp_path / f"{name}.png", image, [place], dense, routed)
    plain, framed, lost = (cv2.imread(str(tmp_path / f"{name}.png")).astype(float) for name in "abc")
    height, width = plain.shape[:2]
    rows = slice(height // 3, 2 * height // 3)
    quarters = [plain[rows, int(width * at) : int(width * (at + 0.12))].mean() for at in (0.1, 0.3, 0.6, 0.8)]
    assert abs(quarters[0] / quarters[1] - 1) < 0.2  # one light on the left
    assert abs(quarters[2] / quarters[3] - DARK) < 0.06
    differing = np.abs(framed - plain).sum(axis=2) > 0
    assert differing[:, : width // 2].sum() == 0 and differing[:, width // 2 :].any()
    green, red = ((drawn - plain)[differing].sum(axis=0).argmax() for drawn in (framed, lost))
    assert (green, red) == (1, 2)
