"""Vision Transformer that skips heads and layers of its blocks picture by picture, besides tokens."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.models import DynamicViT
from mmsparse.models.backbones.block_router import ENTERING
from mmsparse.models.backbones.packed_tokens import Packed
from mmsparse.models.backbones.routed import checkpointed
from mmsparse.models.backbones.routed_attention import Grid, Keys, dense_attention, masked_attention
from mmsparse.registry import MODELS, check_keys

from .choices import Policy
from .gated_block import gated_block, thrifty_block

KEYS = ("heads", "layers", "first", "tau")


@MODELS.register_module()
class AdaViT(DynamicViT):
    """:class:`mmsparse.DynamicViT` whose blocks decide what each picture needs, by its class token.

    Dense parameters keep their names, what is new lives under ``policy``. A skipped head adds nothing to its attention,
    a skipped layer nothing to the tokens. Tokens are skipped by ``sparsity``, as there.

    Args:
        policy: None skips neither heads nor layers; or a dict of

            - ``heads``: Share of the heads that training aims at (0.5); 1 keeps them all.
            - ``layers``: The same of attentions and feed-forward networks (0.5).
            - ``first``: The first block that skips something (1).
            - ``tau``: Temperature of the gradient (5).
        kwargs: Arguments of ``mmsparse.DynamicViT``.
    """

    def __init__(self, *args: Any, policy: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.policy: Policy | None = None
        if policy is None:
            return
        if not isinstance(policy, dict):
            raise TypeError(f"Expected argument `policy` to be a dict or None, but got {policy!r}")
        check_keys("Argument `policy`", policy, KEYS)
        if self.cls_token is None or any(self.windows):
            raise ValueError(
                "Argument `policy` is for a network with a class token, which it reads, and without windows. Set "
                "with_cls_token=True and window_size=0, or remove it"
            )
        if self.router is not None and self.router.keys == ENTERING:
            raise ValueError(
                f"Argument `policy` is for blocks that attend to what they compute: keys={ENTERING!r} is not"
            )
        with mistakes_in("Argument `policy`"):
            self.policy = self._policy(**policy)

    def _policy(self, heads: float = 0.5, layers: float = 0.5, first: int = 1, tau: float = 5.0) -> Policy:
        if type(first) is not int or not 0 <= first < self.num_layers:
            raise ValueError(f"Expected argument `first` to be a block in [0, {self.num_layers}), but got {first!r}")
        if not isinstance(tau, int | float) or tau <= 0:
            raise ValueError(f"Expected argument `tau` to be positive, but got {tau!r}")
        blocks = range(first, self.num_layers)
        return Policy(blocks, self.embed_dims, self.layers[0].attn.num_heads, heads, layers, tau)

    def export_objection(self, padded: bool) -> str | None:
        if self.policy is None or all(dial.keep_ratio >= 1.0 for dial in self.policy.dials):
            return super().export_objection(padded)
        return (
            "with `policy` each picture skips other heads and layers, and an exported network has fixed shapes. Export "
            "it with policy=None (everything is computed; --cfg-options), or evaluate it in PyTorch"
        )

    def _dense(self, i: int, x: Tensor, grid: Grid) -> Tensor:
        gates = None if self.policy is None else self.policy.choose(i, x[:, 0])
        if gates is None:
            return super()._dense(i, x, grid)
        layer = self.layers[i]
        if self.training:
            return checkpointed(partial(gated_block, layer, gates=gates, mix=dense_attention), x, self.with_cp)
        images = torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])
        return thrifty_block(layer, x.flatten(0, 1), images, gates).view_as(x)

    def _masked(self, i: int, x: Tensor, grid: Grid, chosen: Keys, keys: Keys | None) -> Tensor:
        gates = None if self.policy is None else self.policy.choose(i, x[:, 0])
        if gates is None:
            return super()._masked(i, x, grid, chosen, keys)
        fast, weight = self.router.fast_paths[f"0_{i}"], chosen.gate.unsqueeze(-1)

        def run(x: Tensor) -> Tensor:
            slow = gated_block(self.layers[i], x, gates, lambda attn, h: masked_attention(attn, h, keys))
            return (weight * slow + (1.0 - weight) * (x + fast(x))).to(slow.dtype)

        return checkpointed(run, x, self.with_cp)

    def _packed(self, i: int, packed: Packed) -> None:
        gates, total = None, packed.shape[1]
        if self.policy is not None:  # class tokens are always in work
            gates = self.policy.choose(i, packed.kept[packed.selection.keep_idx % total == 0])
        if gates is None:
            return super()._packed(i, packed)
        packed.kept = thrifty_block(self.layers[i], packed.kept, packed.selection.keep_idx // total, gates)
        packed.leave(self.router.fast_paths[f"0_{i}"])
