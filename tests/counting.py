"""The arithmetic of a backbone for one picture."""

import torch
from torch import nn

from mmsparse.analysis import count_macs


def macs_of(model: nn.Module, height: int, width: int) -> int:
    x = torch.zeros(1, 3, height, width)
    return count_macs(model.eval(), lambda: model(x)).total
