"""Looks as one html page that holds everything it shows: it can be mailed, and runs no script."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from mmsparse.analysis import Macs

from .looking import Look, Seen

SIDE = 1024  # longer pictures are made smaller
NIGHT = (10, 14, 48)  # red, green, blue of what lies over the fast path
DARKEST = 0.8
EVERYWHERE = "all places"
PARTS = ("backbone", "neck", "head", "total")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
.look { font: 16px/1.4 system-ui, sans-serif; color: #222; max-width: 1760px; margin: 0 auto; padding: 0 12px;
  container-type: inline-size; }
.look .title { font-size: 13px; color: #666; margin: 8px 0 0; overflow-wrap: anywhere; }
.look h1, .look h2 { font-weight: 600; color: #222; }
.look h1 { font-size: 26px; margin: 14px 0 4px; }
.look h2 { font-size: 17px; margin: 26px 0 8px; overflow-wrap: anywhere; }
.look p { margin: 0 0 8px; }
.look .say b { padding: 0 6px; border-radius: 4px; }
.look .bright { background: #ffe9a8; color: #222; }
.look .dark { background: #1b1f4b; color: #fff; }
.look .pick { position: absolute; opacity: 0; pointer-events: none; }
.look nav { position: sticky; top: 0; z-index: 2; background: #fffffff2; padding: 8px 0; border-bottom: 1px solid #ddd;
  display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.look nav label { border: 1px solid #bbb; border-radius: 14px; padding: 1px 10px; cursor: pointer; font-size: 14px;
  color: #222; background: #fff; }
.look .four { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 14px; }
@container (max-width: 900px) { .look .four { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@container (max-width: 450px) { .look .four { grid-template-columns: minmax(0, 1fr); } }
.look figure { margin: 0; }
.look figure:has(:checked) { grid-column: 1 / -1; }
.look figure label { display: block; cursor: zoom-in; }
.look figure div { position: relative; }
.look figure img { display: block; width: 100%; height: auto; border-radius: 4px; margin: 0; }
.look figure img.keep { position: absolute; inset: 0; height: 100%; display: none; }
.look figcaption { padding: 4px 0; font-size: 15px; }
.look .name { display: inline-block; margin: 2px 8px 0 0; font-size: 13px; color: #444; }
.look .colour { display: inline-block; width: 11px; height: 11px; margin-right: 4px; border-radius: 2px; }
.look table { border-collapse: collapse; margin-top: 8px; font-size: 14px; }
.look td, .look th { padding: 2px 14px 2px 0; text-align: right; color: #222; border: 0; }
.look th:first-child, .look td:first-child { text-align: left; }
.look .bar { width: 220px; height: 12px; background: #c9c9d6; border-radius: 3px; overflow: hidden; }
.look .bar i { display: block; height: 100%; background: #e6a100; }
"""


def fragment(looks: Sequence[Look], title: str, machine: str = "") -> str:
    """The part of a page that shows pictures, with a switch between the places of their network.

    Args:
        looks: Of one network.
        title: Which.
        machine: Where they were timed, if they were.
    """
    places = list(dict.fromkeys(place for seen in looks for place in seen.places))
    tabs = [EVERYWHERE, *places]
    numbers = range(len(tabs))
    rules = "".join(
        f"#place-{n}:checked ~ main .place-{n} {{ display: block; }}\n"
        f"#place-{n}:checked ~ nav .tab-{n} {{ background: #e6a100; border-color: #e6a100; font-weight: 600; }}\n"
        f"#place-{n}:focus-visible ~ nav .tab-{n} {{ outline: 2px solid #1b1f4b; }}\n"
        for n in numbers
    )
    picks = "".join(
        f'<input class="pick" type="radio" name="place" id="place-{n}"{" checked" if n == 0 else ""}>' for n in numbers
    )
    labels = "".join(
        f'<label class="tab-{n}" for="place-{n}">{escape(tab)} {_percent(_mean(looks, tab))}</label>'
        for n, tab in enumerate(tabs)
    )
    return (
        f'<div class="look"><style>{STYLE}{rules}</style><p class="title">{escape(title)}</p>'
        f"{_headline(looks)}{picks}"
        f"<nav>Where it looked, decision by decision: {labels}</nav>"
        f"<main>{''.join(_section(seen, tabs, machine) for seen in looks)}</main></div>"
    )


def document(looks: Sequence[Look], title: str) -> str:
    """A page of its own."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title></head><body>{fragment(looks, title)}</body></html>\n"
    )


def _headline(looks: Sequence[Look]) -> str:
    executed, dense = (sum(getattr(seen, kind).macs.total for seen in looks) for kind in ("routed", "dense"))
    return (
        f"<h1>{_percent(executed / dense)} of the arithmetic: it looked closely where the picture is bright</h1>"
        '<p class="say"><b class="bright">Bright: slow path</b>, the network\'s full computation. '
        '<b class="dark">Dark: fast path</b>, a light short cut. Dense is the same network with everything on the '
        "slow path. A click on a picture enlarges it.</p>"
    )


def _section(seen: Look, tabs: Sequence[str], machine: str) -> str:
    shares = [_everywhere(seen), *(seen.places.get(tab) for tab in tabs[1:])]
    layers = "".join(
        f'<img class="keep place-{n}" alt="{escape(tabs[n])}" src="{_veil(share)}">'
        for n, share in enumerate(shares)
        if share is not None
    )
    picture = _photo(seen.image)
    return (
        f'<section><h2>{escape(seen.name)}</h2><div class="four">'
        f"{_figure(picture, 'Input')}{_figure(picture, 'Where it looked. <b>Bright: slow path</b>', layers)}"
        f"{_found('Routed', seen.routed)}{_found('Dense', seen.dense)}</div>{_costs(seen, machine)}</section>"
    )


def _found(which: str, seen: Seen) -> str:
    colours = seen.found.legend or {}
    names = "".join(_name(name, colours.get(name)) for name in seen.found.names)
    told = f"<b>{which}</b>, {seen.macs.total / 1e9:.2f} GMACs<br>{names}{names and '<br>'}{_name(seen.found.caption)}"
    return _figure(_photo(seen.found.drawn), told)


def _figure(source: str, caption: str, layers: str = "") -> str:
    """A click on it enlarges it."""
    return (
        f'<figure><label><input class="pick" type="checkbox"><div><img alt="" src="{source}">{layers}</div></label>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _name(name: str, colour: Sequence[int] | None = None) -> str:
    dot = "" if colour is None else f'<i class="colour" style="background: rgb({", ".join(map(str, colour))})"></i>'
    return f'<span class="name">{dot}{escape(name)}</span>'


def _costs(seen: Look, machine: str) -> str:
    rows = "".join(_row(part, seen.dense.macs, seen.routed.macs) for part in PARTS)
    scorers = seen.routed.macs.scorers
    timed = ""
    if seen.routed.ms is not None and seen.dense.ms is not None:
        timed = (
            f"<p>Routed {seen.routed.ms:.1f} ms, dense {seen.dense.ms:.1f} ms: the whole prediction on this machine "
            f"({escape(machine)}), both in turn, medians.</p>"
        )
    return (
        "<table><tr><th>GMACs</th><th>dense</th><th>executed</th><th></th><th></th></tr>"
        f"{rows}</table><p>Of these, {scorers / 1e9:.3f} decide what takes the slow path.</p>{timed}"
    )


def _row(part: str, dense: Macs, routed: Macs) -> str:
    before, after = getattr(dense, part), getattr(routed, part)
    if not before:
        return ""
    return (
        f"<tr><td>{part}</td><td>{before / 1e9:.3f}</td><td>{after / 1e9:.3f}</td><td>{_percent(after / before)}</td>"
        f'<td><div class="bar"><i style="width: {100 * min(1.0, after / before):.1f}%"></i></div></td></tr>'
    )


def _everywhere(seen: Look) -> np.ndarray:
    return np.mean(list(seen.places.values()) or [np.ones(seen.image.shape[:2])], axis=0)


def _mean(looks: Sequence[Look], tab: str) -> float:
    shares = [_everywhere(seen) if tab == EVERYWHERE else seen.places.get(tab) for seen in looks]
    return float(np.mean([share.mean() for share in shares if share is not None]))


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", "&nbsp;%")


def _photo(image: np.ndarray) -> str:
    """JPEG of (H, W, 3) RGB."""
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE))
    return _data(picture, "jpeg", quality=85)


def _veil(share: np.ndarray) -> str:
    """PNG that lies over a picture, the darker the fewer decisions for the slow path (H, W): a byte a pixel, packed."""
    picture = Image.fromarray(np.round(255 * share).astype(np.uint8)).convert("P")
    picture.putpalette(NIGHT * 256)
    alphas = bytes(
        round(255 * DARKEST * (1 - (level / 255) ** 0.5)) for level in range(256)
    )  # one of many is seen, too
    return _data(picture, "png", transparency=alphas, optimize=False)


def _data(picture: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
