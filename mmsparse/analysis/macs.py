"""Multiply-accumulates that a forward really executes, split by the parts of the network.

Counted at the dispatcher, operator by operator, so that gathered rows count as what they are and attention
counts too. 1 MAC is what OpenMMLab and most papers call 1 FLOP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.module_tracker import ModuleTracker

from mmsparse.sparsity import Decider


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward. ``head`` is all that is neither backbone nor neck.

    ``scorers`` are those of the decisions, wherever they are taken; they are part of the other counts, too.
    """

    total: int
    backbone: int = 0
    neck: int = 0
    scorers: int = 0

    @property
    def head(self) -> int:
        return self.total - self.backbone - self.neck


def count_macs(model: nn.Module, run: Callable[[], Any]) -> Macs:
    """Count what ``run()`` executes.

    Args:
        model: The network; its children ``backbone`` and ``neck`` are counted apart if it has them.
        run: A function of no arguments that calls the model.
    """
    parts = dict.fromkeys(("backbone", "neck", "scorers"), 0)
    counter = FlopCounterMode(display=False, custom_mapping=_UNKNOWN)
    counter.mod_tracker = _Nowhere()
    with torch.no_grad(), counter:
        handles = []
        for name in ("backbone", "neck"):
            module = getattr(model, name, None)
            if isinstance(module, nn.Module):
                handles += _watch(module, name, counter, parts)
        for module in model.modules():
            if isinstance(module, Decider):
                handles += _watch(module.scorer, "scorers", counter, parts)
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
        total = counter.get_total_flops()
    return Macs(total // 2, *(count // 2 for count in parts.values()))


class _Nowhere(ModuleTracker):
    """Does not ask which module runs; torch's own fails where one is given a part that was split off a parameter."""

    def __enter__(self) -> "_Nowhere":
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def _watch(module: nn.Module, name: str, counter: FlopCounterMode, parts: dict[str, int]) -> list[Any]:
    def before(*_: Any) -> None:
        parts[name] -= counter.get_total_flops()

    def after(*_: Any) -> None:
        parts[name] += counter.get_total_flops()

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _cpu_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _sampled_products(pattern: Tensor, left: Tensor, right: Tensor, *args: Any, out_val: Any = None, **_: Any) -> int:
    return 2 * pattern.values().numel() * left.shape[-1]


def _weighted_bags(table: Tensor, rows: Tensor, *args: Any, out_val: Any = None, **_: Any) -> int:
    weighted = len(args) > 4 and args[4] is not None
    return 2 * rows.numel() * table.shape[1] if weighted else 0  # plain sums multiply nothing


for _count in (_sampled_products, _weighted_bags):
    _count._get_raw = True  # shapes do not tell
_UNKNOWN = {  # to the counter
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
    torch.ops.aten.sparse_sampled_addmm: _sampled_products,
    torch.ops.aten._embedding_bag: _weighted_bags,
    torch.ops.aten._embedding_bag_forward_only: _weighted_bags,
}
