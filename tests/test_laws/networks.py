"""The networks that the laws are run for: each dynamic class beside the stock class it must equal.

A new family is a new entry here, not a new test file.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest
from mmdet.models import backbones
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmpretrain.models import ConvNeXt
from mmseg.models.backbones import SwinTransformer as SegSwin
from network import Network
from part_networks import ENCODERS, HEADS, NECKS, OF_CONVS
from plain_networks import CUMULATIVE, VIT_EVERYWHERE, VITS, vit, vit_windows
from torch import nn

from mmsparse import models as ours
from mmsparse.models import DynamicConvNeXt, DynamicSwin


def convnext(arch: str, v2: bool = False) -> Network:
    kwargs: dict[str, Any] = dict(arch=arch, out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
    kwargs.update(dict(use_grn=True, layer_scale_init_value=0.0) if v2 else dict(layer_scale_init_value=1.0))
    name = f"convnext{'v2' if v2 else ''}-{arch}"
    return Network(name, partial(ConvNeXt, **kwargs), partial(DynamicConvNeXt, **kwargs))


SWIN = {
    "micro": dict(embed_dims=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8)),
    "tiny": dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}


def swin(arch: str, stock: type[nn.Module] = SegSwin, skip_windows: bool = False) -> Network:
    kwargs: dict[str, Any] = dict(**SWIN[arch], drop_path_rate=0.0)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        more = dict(skip_windows=True) if skip_windows else {}
        return DynamicSwin(**kwargs, **switches, sparsity=None if sparsity is None else {**sparsity, **more})

    name = f"swin-{arch}-{stock.__module__.split('.')[0]}{'-skip' if skip_windows else ''}"
    return Network(name, partial(stock, **kwargs), dynamic, attends=True)


RESIDUAL = dict(places=[(0, 1), (1, 1), (2, 1), (2, 3), (3, 1)], keep_ratio=[0.6, 0.5, 0.7, 0.3, 0.4])


def resnet(kind: str = "ResNet", depth: int = 50, tile: int = 2, **more: Any) -> Network:
    """Of few channels. Its batch norms are evaluated in training, too, as in mmdet."""
    kwargs: dict[str, Any] = dict(depth=depth, base_channels=8, **more)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        own = None if sparsity is None else {"tile": tile, **sparsity}
        return getattr(ours, f"Dynamic{kind}")(**kwargs, **switches, sparsity=own)

    return Network(f"{kind.lower()}-{depth}", partial(getattr(backbones, kind), **kwargs), dynamic, RESIDUAL)


CONVNEXTS = [convnext(arch) for arch in ("atto", "femto", "pico", "nano", "tiny", "small")]
SWINS = [swin("micro"), swin("micro", DetSwin), swin("micro", skip_windows=True), swin("tiny")]
RESNETS = [
    resnet(),
    resnet(depth=34, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 2)),
    resnet("ResNetV1d", tile=1),
    resnet("ResNeXt", groups=4, base_width=16),
]
ALL = [*CONVNEXTS, convnext("atto", v2=True), *SWINS, *RESNETS, *OF_CONVS, *VITS, *ENCODERS, *NECKS, *HEADS]
CHANNEL_MIXERS = [convnext("atto"), convnext("atto", v2=True), swin("micro"), swin("micro", skip_windows=True)]
BACKBONES = [*CHANNEL_MIXERS, *RESNETS, *VITS]
LIGHT = [*BACKBONES, *OF_CONVS, *ENCODERS, *NECKS, *HEADS]
FAMILIES = [convnext("atto"), swin("micro"), vit(VIT_EVERYWHERE), vit(CUMULATIVE), vit_windows(), NECKS[0], HEADS[0]]
OFTEN = {network.name for network in FAMILIES}
# scorers that obey the laws, too
OF_PROJECTS = ["SurpriseScorer", "TokenImportanceScorer", "PropagationScorer", "ValueAttentionScorer"]
READING = ["AttentionScorer", "TokenImportanceScorer", "ValueAttentionScorer"]
SELECTORS = ["TopKSelector", "GumbelSelector", "ThresholdSelector"]


def unless_often(network: Network) -> Any:
    """The mark of what is tried for one network of each family, and for all others behind the marker."""
    return () if network.name in OFTEN else pytest.mark.slow


def scorers_of(network: Network, *scorers: str) -> list[str]:
    """Those that a network can have, and those of projects for one of each family."""
    more = OF_PROJECTS if network.name in OFTEN else []
    return [scorer for scorer in (*scorers, *more) if scorer not in READING or network.attends]


def in_turn(cases: Iterable[tuple[Network, Sequence[Any], Sequence[Any]]]) -> list[Any]:
    """Each network with every pair of two options; of networks that are not one of each family, all but as many pairs
    as it takes to try each option are behind the marker.
    """
    params = []
    for number, (network, *options) in enumerate(cases):
        fewer = min(map(len, options))
        for places in product(*(range(len(option)) for option in options)):
            values = [option[place] for option, place in zip(options, places, strict=True)]
            marks = () if sum(places, number) % fewer == 0 else unless_often(network)
            params.append(pytest.param(network, *values, id="-".join(map(str, (network.name, *values))), marks=marks))
    return params
