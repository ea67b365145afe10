"""Plain transformers, also those of projects, beside the stock classes they must equal."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models import BEiTViT, VisionTransformer, ViTEVA02, ViTSAM
from network import Network
from torch import Tensor, nn
from torch.func import functional_call

from mmsparse import set_keep_ratio
from mmsparse.models import DynamicBEiT, DynamicViT, DynamicViTEVA02, DynamicViTSAM
from projects.adavit import AdaViT
from projects.patch_slimming import SlimMasks, SlimViT
from projects.sparsifiner import SparsifinerViT
from projects.tpc import TPCViT

FILES = tempfile.TemporaryDirectory()
VIT = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
VIT_EVERYWHERE = dict(places=[0, 1, 3], keep_ratio=[0.6, 0.7, 0.3])  # may come back
CUMULATIVE = dict(places=[0, 1, 3], keep_ratio=[0.8, 0.6, 0.3], cumulative=True)
ENTERING = dict(**CUMULATIVE, keys="entering")


def vit(everywhere: dict[str, Any], out_type: str = "featmap", **more: Any) -> Network:
    """``more`` as for the stock class; the last map is normed, so that all maps can be seen."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type=out_type, out_indices=[0, 1, 2, 3], **more)
    name = f"vit-micro-{out_type}{'' if more.get('with_cls_token', True) else '-no-class'}"
    always = {key: everywhere[key] for key in ("cumulative", "keys") if key in everywhere}
    name += "-entering" if "keys" in always else "-cumulative" if always else ""
    dynamic = partial(_dynamic_vit, always=always, **kwargs)
    return _plain(name, partial(VisionTransformer, **kwargs), dynamic, everywhere)


def vit_windows() -> Network:
    """ViTDet's blocks, as mmpretrain has them (for SAM): windows, some blocks global, no class token."""
    shared: dict[str, Any] = dict(out_indices=[0, 1, 2, 3], window_size=5)

    def stock() -> nn.Module:
        arch = dict(**VIT, global_attn_indexes=[1])
        model = ViTSAM(arch=arch, **shared, img_size=224, out_channels=0, use_rel_pos=False)
        model._register_state_dict_hook(_flat_positions)
        return model

    own: dict[str, Any] = dict(global_attn_indexes=[1], out_type="featmap", with_cls_token=False, final_norm=False)
    dynamic = partial(_dynamic_vit, arch=VIT, **shared, **own)
    return _plain("vit-micro-windows", stock, dynamic, VIT_EVERYWHERE)


def deit(arch: str) -> Network:
    return _plain(
        arch, partial(VisionTransformer, arch=arch), partial(_dynamic_vit, arch=arch, always=dict(cumulative=True)), {}
    )


def _plain(name: str, stock: Callable, dynamic: Callable, everywhere: dict[str, Any]) -> Network:
    some = dict(places=[1, 3], keep_ratio=[0.7, 0.3])
    packs = not any(word in name for word in ("windows", "entering", "slim", "sparsifiner"))
    return Network(name, stock, dynamic, everywhere, some, explore=(1.0, 0.25) if packs else (1.0,), attends=True)


def _dynamic_vit(
    sparsity: dict[str, Any] | None,
    always: Mapping[str, Any] = {},
    kind: type[nn.Module] = DynamicViT,
    **kwargs: Any,
) -> nn.Module:
    return kind(**kwargs, sparsity=None if sparsity is None else {**sparsity, **always})


class WithRegisters(VisionTransformer):
    """The stock layers, given tokens behind the class token that have no position."""

    def __init__(self, num_registers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, self.embed_dims))

    def pre_norm(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)

    def _format_output(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return super()._format_output(torch.cat([x[:, :1], x[:, 1 + self.register_tokens.shape[1] :]], dim=1), size)


def registers() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3], num_registers=3)
    dynamic = partial(_dynamic_vit, **kwargs)
    return _plain("vit-micro-registers", partial(WithRegisters, **kwargs), dynamic, VIT_EVERYWHERE)


class BEiTOfAnySize(BEiTViT):
    """The stock class, which takes pictures of one size: at others, one of that size with the middle of the tables."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kwargs = kwargs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        of_that_size = BEiTViT(**{**self.kwargs, "img_size": x.shape[-2:]}).to(x)
        of_that_size.train(self.training)
        values = {
            name: self._middle(value, of_that_size.patch_resolution) if name.endswith("bias_table") else value
            for name, value in self.named_parameters()
        }
        return functional_call(of_that_size, values, (x,))

    def _middle(self, table: Tensor, size: tuple[int, int]) -> Tensor:
        (height, width), (down, right) = self.patch_resolution, size
        map_, extra = table[:-3].unflatten(0, (2 * height - 1, 2 * width - 1)), table[-3:]
        map_ = map_[height - down : height + down - 1, width - right : width + right - 1]
        return torch.cat([map_.flatten(0, 1), extra])


def beit(everywhere: dict[str, Any], **more: Any) -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, img_size=512, out_type="featmap", out_indices=[0, 1, 2, 3], **more)
    always = {key: everywhere[key] for key in ("cumulative", "keys") if key in everywhere}
    name = f"beit{'-shared' if 'use_shared_rel_pos_bias' in more else ''}{'-entering' if 'keys' in always else ''}"
    dynamic = partial(_dynamic_vit, kind=DynamicBEiT, always=always, **kwargs)
    return _plain(name, partial(BEiTOfAnySize, **kwargs), dynamic, everywhere)


def sam() -> Network:
    """Windows and some global blocks, all with decomposed relative positions."""
    arch = dict(**VIT, global_attn_indexes=[1])
    kwargs: dict[str, Any] = dict(arch=arch, out_indices=[0, 1, 2, 3], window_size=5, out_channels=0)
    dynamic = partial(_dynamic_vit, kind=DynamicViTSAM, **kwargs)
    return _plain("sam-windows", partial(ViTSAM, **kwargs), dynamic, VIT_EVERYWHERE)


def eva02() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])
    dynamic = partial(_dynamic_vit, kind=DynamicViTEVA02, **kwargs)
    return _plain("eva02", partial(ViTEVA02, **kwargs), dynamic, VIT_EVERYWHERE)


def sparsifiner() -> Network:
    """Few keys for each query, unless everything is kept."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3], with_cls_token=False)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        keep_ratio = 1.0 if sparsity == dict(keep_ratio=1.0) else 0.3
        connectivity = None if sparsity is None else dict(keep_ratio=keep_ratio, coefficients=4, rank=12)
        model = SparsifinerViT(**kwargs, **switches, sparsity=sparsity, connectivity=connectivity)
        if model.predictor is not None:
            model.predictor.reconstructing = False  # the second stage; the first is the dense network
        return model

    plain = _plain("sparsifiner", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return replace(plain, apart="predictor")


class Stabilised(Network):
    """Of the stock network's values as long as its stabiliser, which enlivening fills, is zero."""

    def alone(self, sparsity: dict[str, Any]) -> nn.Module:
        dynamic = super().alone(sparsity)
        nn.init.zeros_(dynamic.stabiliser.weight)
        nn.init.zeros_(dynamic.stabiliser.bias)
        return dynamic


def tpc() -> Network:
    """One scorer of its own for all places, unless another is asked for."""
    own = dict(scorer=dict(type="PropagationScorer"), share_scorer=True)
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        if sparsity is not None and "scorer" not in sparsity:
            sparsity = {**sparsity, **own}
        return TPCViT(**kwargs, **switches, sparsity=sparsity)

    plain = _plain("tpc", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return Stabilised(**vars(replace(plain, apart="stabiliser", some=dict(places=[1, 3], keep_ratio=[0.5, 0.5]))))


class Unskipping(Network):
    """Whose policy, which enlivening fills, uses all heads and layers, drawn or not; computed one by one."""

    def alone(self, sparsity: dict[str, Any]) -> nn.Module:
        dynamic = super().alone(sparsity)
        for choice in dynamic.policy.dials:
            nn.init.constant_(choice.linear.bias, 1e3)
        return dynamic


def adavit() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        policy = None if sparsity is None else dict(first=0)
        return AdaViT(**kwargs, **switches, sparsity=sparsity, policy=policy)

    plain = _plain("adavit", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return Unskipping(**vars(replace(plain, apart="policy")))


def slim() -> Network:
    """With the masks of a file; where a law brings a selector, chosen picture by picture, as many as the masks keep."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        if sparsity is None:
            return DynamicViT(**kwargs, **switches)
        own = {key: value for key, value in sparsity.items() if key not in ("places", "keep_ratio")}
        if own or "places" not in sparsity:
            own.setdefault("scorer", dict(type="LocalGlobalScorer"))
            own.setdefault("selector", dict(type="TopKSelector"))
        model = SlimViT(**kwargs, **switches, masks=_masks(), sparsity=own)
        if "places" not in sparsity:
            set_keep_ratio(model, sparsity["keep_ratio"])
        return model

    everywhere = dict(places=[0, 1, 3], keep_ratio=[0.8, 0.6, 0.3])
    return replace(_plain("slim", partial(VisionTransformer, **kwargs), dynamic, everywhere), some=everywhere)


@cache
def _masks() -> str:
    """Those of ``slim``: nested, on the grid of a picture of 224x224."""
    order = torch.randperm(196, generator=torch.Generator().manual_seed(0)).expand(4, -1)
    counts = torch.tensor([157, 118, 118, 59]).unsqueeze(1)
    path = str(Path(FILES.name, "masks.json"))
    SlimMasks((14, 14), 16, order >= 196 - counts, order.clone()).write(path)
    return path


def _flat_positions(model: nn.Module, state: dict[str, torch.Tensor], *_: Any) -> None:
    state["pos_embed"] = state["pos_embed"].flatten(1, 2)


VITS = [
    vit(VIT_EVERYWHERE),
    vit(VIT_EVERYWHERE, with_cls_token=False, layer_scale_init_value=0.5),
    vit(CUMULATIVE),
    vit(CUMULATIVE, out_type="cls_token"),
    vit(ENTERING),
    vit_windows(),
    beit(VIT_EVERYWHERE),
    beit(ENTERING, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, bias=True),
    sam(),
    eva02(),
    registers(),
    sparsifiner(),
    tpc(),
    adavit(),
    slim(),
]
