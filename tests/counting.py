"""The arithmetic of a backbone for one picture."""

import torch
from torch import nn

from mmsparse.analysis import count_macs


def macs_of(model: nn.Module, height: int, width: int, device: str = "cpu") -> int:
    """On the device "meta" nothing is computed: there are shapes and no numbers."""
    x = torch.zeros(1, 3, height, width, device=device)
    model = model.to(device).eval()
    return count_macs(model, lambda: model(x)).total
