"""``keep_ratio=dict(network=0.6, size=(H, W))``: parts that share one budget, a share of all arithmetic."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmsparse.analysis import fit_keep_ratio
from mmsparse.apis import find_routers
from mmsparse.calls import predict, prepare_batch
from mmsparse.configs import read_config
from mmsparse.sparsity.budget import SHARED

from .building import build_plain, random_pictures

DIGITS = 4


def open_config(path: str, options: dict[str, Any] | None = None, launcher: str = "none") -> Config:
    """``read_config``, in which every keep ratio is a number."""
    cfg = read_config(path, options, launcher)
    share_budgets(cfg)
    return cfg


def share_budgets(cfg: Config) -> None:
    """Replace each part's ``keep_ratio=dict(network=share, size=(H, W))`` by numbers, in place.

    ``ratio`` of such a dict, a number or one for each place, says how the ratios stand to each other, 0.5 everywhere if
    not given: all are scaled by one factor, until the network executes the share of its dense arithmetic on a picture
    of the size. Parts with numbers keep them.
    """
    sharing = {part: found for part, found in cfg.model.items() if _wish(found) is not None}
    if not sharing:
        return
    wishes = {part: _checked(part, _wish(found)) for part, found in sharing.items()}
    if len(set(wishes.values())) > 1:
        raise ValueError(f"Argument `keep_ratio`: expected one `network` and one `size` in all parts, but got {wishes}")
    share, size = next(iter(wishes.values()))
    for found in sharing.values():
        found.sparsity.keep_ratio = found.sparsity.keep_ratio.get("ratio", 0.5)
    model = build_plain(cfg).eval()
    batch = prepare_batch(model, random_pictures(cfg, 1, size))
    fit_keep_ratio(model, share, lambda: predict(model, batch), parts=list(sharing))
    routers = find_routers(model)
    for part, found in sharing.items():
        found.sparsity.keep_ratio = [round(ratio, DIGITS) for ratio in routers[part].keep_ratio]


def _wish(part: Any) -> Mapping[str, Any] | None:
    for key in ("sparsity", "keep_ratio"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else None


def _checked(part: str, wish: Mapping[str, Any]) -> tuple[float, tuple[int, int]]:
    share, size = wish.get("network"), wish.get("size")
    good = isinstance(share, float) and 0.0 < share < 1.0 and not wish.keys() - {"network", "size", "ratio"}
    sides = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not (good and sides):
        raise ValueError(f"model.{part}: expected argument `keep_ratio` to be {SHARED}, but got {dict(wish)}")
    return share, tuple(size)
