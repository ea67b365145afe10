"""The page of looks: everything in one file, nothing from outside, no markup of others."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmsparse.analysis import Macs
from mmsparse.visualization.looking import Look, Seen
from mmsparse.visualization.page import DARKEST, NIGHT, document, fragment
from mmsparse.visualization.panels import Found

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
HALF = np.repeat([[1.0, 0.0]], 4, axis=0)  # (4, 2)


def a_look(name="a.png", label="cat", places=None):
    image = np.full((4, 2, 3), 200, np.uint8)
    found = Found(image, "segmentation", [label], {label: [1, 2, 3]})
    dense = Seen(found, Macs(total=4_000_000_000, backbone=2_000_000_000), 20.0)
    routed = Seen(found, Macs(total=1_000_000_000, backbone=500_000_000, scorers=3_000_000), 12.34)
    return Look(name, image, places or {"backbone.s0b0": HALF, "head.level0": np.ones((4, 2))}, dense, routed)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.found = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found.append((tag, dict(attributes)))

    def of(self, tag, **wanted):
        return [found for name, found in self.found if name == tag and wanted.items() <= found.items()]


def test_it_holds_all_it_shows_and_runs_nothing():
    page = document([a_look(), a_look("b.png")], "net")
    assert not re.search(r"https?:|//|url\(|@import|<script|<link", re.sub(r"base64,[^\"]*", "", page))
    tags = Tags(page)
    assert all(
        image["src"].startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for image in tags.of("img")
    )
    (policy,) = tags.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_a_switch_and_a_keep_map_for_each_place_and_for_all():
    tags = Tags(fragment([a_look(), a_look("b.png")], "net"))
    assert len(tags.of("input", type="radio", name="place")) == 3
    for n, share in enumerate([(HALF + 1) / 2, HALF, np.ones((4, 2))]):
        layers = tags.of("img", **{"class": f"keep place-{n}"})
        assert len(layers) == 2  # pictures
        veil = np.array(Image.open(io.BytesIO(base64.b64decode(layers[0]["src"].partition(",")[2]))).convert("RGBA"))
        assert (veil[..., :3] == NIGHT).all()
        assert veil[..., 3] / 255 == pytest.approx(DARKEST * (1 - np.sqrt(share)), abs=0.01)  # dark: fast path


def test_figures_are_those_of_the_look():
    text = re.sub("<[^>]*>", "|", fragment([a_look()], "net", "CPU, 3 threads")).replace("&nbsp;", " ")
    assert "25 % of the arithmetic" in text and "Bright: slow path" in text
    assert "|total||4.000||1.000||25 %|" in text and "|backbone||2.000||0.500||25 %|" in text
    assert "|head||2.000||0.500||25 %|" in text and "|neck|" not in text  # there is none
    assert "Of these, 0.003 decide" in text
    assert "Routed 12.3 ms, dense 20.0 ms: the whole prediction on this machine (CPU, 3 threads)" in text
    assert "all places 75 %" in text and "backbone.s0b0 50 %" in text and "head.level0 100 %" in text


def test_names_of_files_classes_places_and_networks_are_no_markup():
    plain = Tags(fragment([a_look("name", "label", {"place": HALF})], "title"))
    evil = fragment([a_look(EVIL, EVIL, {EVIL: HALF})], EVIL)
    assert Tags(evil).tags == plain.tags and "<script" not in evil and "onerror=alert(1)>" not in evil
    assert Tags(document([a_look()], EVIL)).tags == Tags(document([a_look()], "title")).tags
