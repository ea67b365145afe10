"""What the laws are run for: a dynamic class beside the stock class it must equal."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import projects.ats
import projects.sait
import projects.template  # noqa: F401

# every stage and nearly every block decides or follows a decision
EVERYWHERE = dict(places=[(0, 0), (1, 1), (2, 0), (2, 3), (3, 1)], keep_ratio=[0.6, 0.5, 0.7, 0.3, 0.4])


@dataclass(frozen=True)
class Network:
    name: str
    stock: Callable[..., nn.Module]
    dynamic: Callable[..., nn.Module]  # takes sparsity=
    everywhere: dict[str, Any] = field(default_factory=lambda: EVERYWHERE)
    some: dict[str, Any] = field(default_factory=lambda: dict(places=[(2, 1), (2, 3)], keep_ratio=[0.7, 0.3]))
    explore: tuple[float, ...] = (1.0, 0.25)  # what it can
    attends: bool = False  # has attention that scorers may read
    apart: str = "-"  # in the names of new parameters that only a loss of their own teaches

    def pair(self, sparsity: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
        """The stock network with lively weights, and a dynamic one with the same dense weights."""
        stock = self.stock()
        enliven(stock)
        dynamic = self.alone(sparsity)
        result = dynamic.load_state_dict(stock.state_dict(), strict=False)
        assert not result.unexpected_keys
        return stock, dynamic

    def alone(self, sparsity: dict[str, Any]) -> nn.Module:
        """The dynamic one for laws that compare it with itself."""
        dynamic = self.dynamic(sparsity=sparsity)
        enliven(dynamic)  # scorers and fast paths too
        return dynamic


def precise(network: Network) -> torch.dtype:
    """What a network is compared with another kernel's in, or in another memory layout: each CPU rounds differently.

    Double precision, unless a CPU lacks a quick kernel for it, as for depthwise convolutions.
    """
    return torch.float32 if network.name.startswith("convnext") else torch.float64


def enliven(model: nn.Module) -> None:
    """Random values everywhere, so that no term is hidden behind a zero or a one; activations stay near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.5 if name.endswith(("weight", "gamma")) else 0.0, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


def ids(network: Network) -> str:
    return network.name
