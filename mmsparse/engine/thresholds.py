"""Thresholds of budgets per image, where several processes or averaged weights share them."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import nn

from mmsparse.sparsity import ThresholdSelector


def find_thresholds(model: nn.Module) -> list[ThresholdSelector]:
    return [module for module in model.modules() if isinstance(module, ThresholdSelector)]


def share_thresholds(model: nn.Module) -> None:
    """Average the running quantiles of all processes, those that have none left out; all of them must call this."""
    selectors = find_thresholds(model)
    if not selectors or get_world_size() == 1:
        return
    seen = torch.stack([selector.num_updates > 0 for selector in selectors]).float()  # (places,)
    quantiles = torch.stack([selector.quantiles for selector in selectors])
    total = torch.cat([quantiles * seen[:, None], seen[:, None]], dim=1)
    all_reduce(total)
    for selector, (*_, count), mean in zip(selectors, total, total[:, :-1] / total[:, -1:].clamp_min(1.0), strict=True):
        selector.quantiles.copy_(mean)
        selector.num_updates.clamp_(min=int(count > 0))
