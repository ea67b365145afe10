"""A Vision Transformer whose blocks compute the tokens of a mask file: queries, projection and feed-forward network."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models import VisionTransformer
from torch import Tensor

from mmsparse.models import DynamicViT
from mmsparse.models.backbones.arguments import bind
from mmsparse.models.backbones.block_router import ENTERING
from mmsparse.registry import MODELS
from mmsparse.sparsity import Context, Scorer, Selection, TopKSelector

from .masks import SlimMasks

LEAST = 1e-6  # a keep ratio whose count is zero: the last block of a classifier computes the class token alone
OWN = ("places", "cumulative", "keys")  # what a mask file says of `sparsity`


@MODELS.register_module()
class SlimViT(DynamicViT):
    """``mmsparse.DynamicViT`` with the masks of a file: each block computes some tokens, the same in every picture.

    A block attends to all that the block before computed. A token that it drops keeps its value at its place, so maps
    stay whole; the blocks behind do not see it any more. All parameters are those of the dense network.

    Args:
        masks: The file that ``python -m projects.patch_slimming.search`` wrote for this network.
        sparsity: More arguments of :class:`BlockRouter`. With another ``scorer`` the tokens are chosen
            picture by picture, as many as the masks keep.
        args, kwargs: Arguments of ``mmsparse.DynamicViT``.
    """

    def __init__(self, *args: Any, masks: str, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        more = dict(sparsity or {})
        for key in OWN:
            if key in more:
                raise ValueError(f"SlimViT: argument `sparsity` has {key!r}, which the mask file decides. Remove it")
        file = SlimMasks.read(masks)
        own = {"with_cp", "window_size", "global_attn_indexes"}
        stock = {key: value for key, value in kwargs.items() if key not in own}
        _check_depth(bind(self, VisionTransformer, args, stock).arguments.get("arch", "base"), file, masks)
        locations = file.kept.shape[1]
        if not file.places:
            raise ValueError(f"SlimViT: {masks!r} keeps every token in every block. Use the dense network")
        super().__init__(
            *args,
            sparsity=dict(
                places=file.places,
                keep_ratio=[max(file.counts[block] / locations, LEAST) for block in file.places],
                cumulative=True,
                keys=ENTERING,
                **{
                    "scorer": dict(type="MaskScorer", masks=masks),
                    "selector": dict(type="FixedSelector"),
                    **more,
                },
            ),
            **kwargs,
        )
        patch = self.patch_embed.projection.stride[0]
        if (tuple(self.patch_resolution), patch) != (file.grid, file.patch_size):
            raise ValueError(
                f"SlimViT: {masks!r} is for a grid of {_by(file.grid)} patches of {file.patch_size} pixels, but this "
                f"network has {_by(self.patch_resolution)} of {patch}. Search masks for it, or write resized ones: "
                "SlimMasks.read(path).resized((height, width)).write(path)"
            )


@MODELS.register_module()
class MaskScorer(Scorer):
    """The masks of a file as scores: highest where the block keeps a token, and in the file's order otherwise.

    Pictures of another size than the masks' own get resized ones, each for its real part where a batch is padded.

    Args:
        channels: Of the tokens.
        masks: The file.
    """

    scores_any = False

    def __init__(self, channels: int, masks: str) -> None:
        super().__init__(channels)
        self.masks = masks
        self._file = _read(masks, Path(masks).stat().st_mtime)
        self._places = self._file.places

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        grid, valid = context.geometry.grid, context.valid
        if valid is None:
            return self._scores(grid).to(tokens.device).expand(len(tokens), -1, -1).flatten(1)
        scores = torch.zeros(len(tokens), *grid)
        for image, size in zip(scores, valid.sizes, strict=True):
            image[: size[0], : size[1]] = self._scores(size)
        return scores.flatten(1).to(tokens.device)

    @torch._dynamo.assume_constant_result  # compilers take it as it comes
    def _scores(self, grid: tuple[int, int]) -> Tensor:
        """Of one picture, (H, W)."""
        file = _resized(self._file, tuple(grid))
        block = self._places[self.index]
        return (file.kept[block] + 0.5 * file.order[block] / file.kept.shape[1]).view(grid)


@MODELS.register_module()
class FixedSelector(TopKSelector):
    """Exact counts of the very scores: no noise in training, and no gradient into the scores by what they select."""

    learn = "gate"  # no other way either: this gate teaches nothing

    def forward(self, *args: Any, **kwargs: Any) -> Selection:
        chosen = super().forward(*args, **{**kwargs, "noise": 0.0})
        return chosen if chosen.gate is None else replace(chosen, gate=chosen.keep_mask.float())


@lru_cache(maxsize=8)
def _read(path: str, changed: float) -> SlimMasks:
    """Read once for all places of a network; ``changed`` is the file's time, so that a new search is seen."""
    return SlimMasks.read(path)


@lru_cache(maxsize=64)
def _resized(masks: SlimMasks, grid: tuple[int, int]) -> SlimMasks:
    return masks.resized(grid)


def _check_depth(arch: Any, file: SlimMasks, path: str) -> None:
    known = VisionTransformer.arch_zoo
    depth = (known.get(arch.lower(), {}) if isinstance(arch, str) else arch).get("num_layers", len(file.kept))
    if depth != len(file.kept):  # what else is wrong with `arch` the parent says
        raise ValueError(
            f"SlimViT: {path!r} is for a network of {len(file.kept)} blocks, but this one has {depth}. "
            "Use the mask file that was searched with this network"
        )


def _by(grid: Any) -> str:
    return "x".join(map(str, grid))
