"""ResNets whose residual branches are routed: elsewhere a location keeps its value, by the shortcut."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.ops import from_tiles, put_tiles, tiles_at, to_tiles
from mmsparse.sparsity import IdentityFastPath, Paths
from mmsparse.sparsity.paths import take_paths

from .block_router import BlockRouter
from .places import Place
from .residual_branch import Branch, objection_to
from .routed import RoutedBackbone, Size, checkpointed


class RoutedResNet(RoutedBackbone):
    """What all ResNets have in common.

    The first block of a stage is dense. Batch norms that are evaluated (``norm_eval=True``, mmdet's default) are
    exact. In training they take their statistics from the chosen tiles, so a result then depends on the whole batch
    and on what was chosen in it, as it does on the batch in the stock class.
    """

    fast_path = "IdentityFastPath"
    own_keys = ("tile",)
    tile = 4

    def __init__(self, *args: Any, sparsity: dict[str, Any] | None = None, **kwargs: Any) -> None:
        tile = sparsity.get("tile", self.tile) if isinstance(sparsity, dict) else self.tile
        if type(tile) is not int or tile < 1:
            raise ValueError(f"Argument `sparsity`: expected `tile` to be a positive whole number, but got {tile!r}")
        super().__init__(*args, sparsity=sparsity, **kwargs)
        self.tile = tile

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        depth = arguments.get("depth", arguments.get("kwargs", {}).get("depth"))
        if depth not in self.arch_settings:
            raise ValueError(
                f"{type(self).__name__}: expected argument `depth` to be one of {list(self.arch_settings)}, but got "
                f"{depth!r}"
            )

    def routed_stages(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.stage_blocks, self.widths()

    def widths(self) -> list[int]:
        """Channels of the stages."""
        return [self.base_channels * self.block.expansion * 2**stage for stage in range(self.num_stages)]

    def stem_of(self, x: Tensor) -> Tensor:
        """What is before the stages."""
        return self.maxpool(self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x))))

    def default_places(self, depths: Sequence[int]) -> Sequence[Place]:
        """The second block of each stage that is trained and can be routed."""
        return [(stage, 1) for stage, objection in self._objections().items() if objection is None]

    def _objections(self) -> dict[int, str | None]:
        """To routing the second block of each stage that is trained and has one."""
        trained = range(max(self.frozen_stages, 0), self.num_stages)
        return {stage: objection_to(self._block(stage, 1)) for stage in trained if self.stage_blocks[stage] > 1}

    def _build_router(self, sparsity: Mapping[str, Any]) -> BlockRouter:
        reasons = list(dict.fromkeys(self._objections().values()))
        if None not in reasons and "places" not in sparsity:
            why = "; ".join(reasons) or f"no stage behind frozen_stages={self.frozen_stages} has two"
            raise ValueError(f"{type(self).__name__}: none of its blocks can be routed: {why}. Remove `sparsity`")
        return super()._build_router(sparsity)

    def check_block(self, stage: int, number: int) -> None:
        objection = objection_to(self._block(stage, number))
        if objection is not None:
            raise ValueError(
                f"Block {number} of stage {stage} cannot be routed: {objection}. Name other `places` than "
                f"({stage}, {number}) or an earlier one of that stage"
            )

    def _block(self, stage: int, number: int) -> nn.Module:
        return getattr(self, self.res_layers[stage])[number]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_pictures(x)
        x = x.contiguous(memory_format=torch.channels_last)  # a tile's rows are then a view of the map
        x = self.stem_of(x)
        outs = []
        for stage, name in enumerate(self.res_layers):
            x = self.run_stage(stage, getattr(self, name), x)
            if stage in self.out_indices:
                outs.append(x.contiguous())  # mmcv's operators read maps as they lie
        return tuple(outs)

    def routed_block(self, block: nn.Module, x: Tensor, size: Size, paths: Paths) -> Tensor:
        selection, tile = paths.selection, self.tile
        stays = isinstance(paths.fast, IdentityFastPath)  # what a block gets has passed an activation already

        def run(x: Tensor) -> Tensor:
            branch = Branch(block, x, tile, selection.keep_mask.numel())

            def slow(tiles: Tensor, idx: Tensor) -> Tensor:
                return (tiles + branch(idx)).relu()

            def fast(tiles: Tensor, _: Tensor) -> Tensor:
                return tiles if stays else (tiles + paths.fast(tiles.unflatten(1, (-1, x.shape[1]))).flatten(1)).relu()

            if stays and selection.gate is None:
                keep = selection.keep_idx
                return put_tiles(x, slow(tiles_at(x, keep, tile), keep), selection.rows, tile)
            return from_tiles(take_paths(to_tiles(x, tile), selection, slow, fast, paths.explore), x.shape, tile)

        return checkpointed(run, x, block.with_cp)
