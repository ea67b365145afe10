"""Vision Transformer whose queries attend to few keys, which a small network chooses for each of them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import ModuleDict
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.models import DynamicViT
from mmsparse.models.backbones.block_router import ENTERING
from mmsparse.models.backbones.routed_attention import Keys, split_heads
from mmsparse.registry import MODELS, check_keys
from mmsparse.sparsity import Tunable, check_keep_ratio

from .basis import Grid
from .connectivity import ConnectivityPredictor, Shape

KEYS = ("keep_ratio", "blocks", "rank", "channels", "coefficients", "basis_threshold", "threshold", "tile")


class Connectivity(Tunable):
    """The predictors of a network, one a block.

    Attributes:
        reconstructing: Whether a training forward attends densely and leaves the predictors' errors here (the first
            stage), or attends to what they choose (the second). Evaluation always does.
        collected: Becomes True once something promises to take what waits here after each forward.
    """

    def __init__(self, shapes: dict[int, Shape], keep_ratio: float | Sequence[float]) -> None:
        super().__init__()
        self.predictors = ModuleDict({str(i): ConnectivityPredictor(f"keys/b{i}", s) for i, s in shapes.items()})
        self.reconstructing = True
        self.collected = False
        self._waiting: list[Tensor] = []
        self.set_keep_ratio(keep_ratio)

    @property
    def dials(self) -> list[ConnectivityPredictor]:
        return list(self.predictors.values())

    def expand(self, keep_ratio: float | Sequence[float]) -> Sequence[float]:
        if not isinstance(keep_ratio, Sequence) or isinstance(keep_ratio, str):
            return (check_keep_ratio(keep_ratio),) * len(self.dials)
        if len(keep_ratio) != len(self.dials):
            raise ValueError(
                f"Expected argument `keep_ratio` to be one number or one for each of the {len(self.dials)} blocks with "
                f"a predictor, but got {len(keep_ratio)} numbers: {list(keep_ratio)}"
            )
        return tuple(check_keep_ratio(ratio) for ratio in keep_ratio)

    def leave(self, error: Tensor) -> None:
        if len(self._waiting) >= len(self.dials) and not self.collected:
            raise RuntimeError(
                "SparsifinerViT: nobody took the predictors' errors after the last training step. Add "
                "custom_hooks=[dict(type='mmsparse.ConnectivityHook')] to the config, or call pop_errors() in your own "
                "loop; reconstructing=False on backbone.predictor is the second stage"
            )
        self._waiting.append(error)

    def pop_errors(self) -> list[Tensor]:
        """Take what the training forwards since the last call left: an error of each block."""
        waiting, self._waiting = self._waiting, []
        return waiting


@MODELS.register_module()
class SparsifinerViT(DynamicViT):
    """:class:`mmsparse.DynamicViT` with instance-dependent sparse attention.

    Dense parameters keep their names, what is new lives under ``predictor``. Tokens can be selected besides, by
    ``sparsity``: then the keys are chosen among those left.

    Args:
        connectivity: None is the network without predictors; or a dict of

            - ``keep_ratio``: How many of all tokens are keys of each query, rounded up; one number or one for each
              block. 1.0 is dense attention. The released recipes have 0.1 to 0.9.
            - ``blocks``: Those with a predictor, by default all that have no windows.
            - ``rank``: Number of maps in the basis, a sixth of the tokens (of ``img_size``) by default.
            - ``channels``: That queries and keys are reduced to, half of a head's by default.
            - ``coefficients``: How many maps a query is a sum of (8).
            - ``basis_threshold``: Below it the basis is zero (0.02).
            - ``threshold``: Of the chosen keys, those whose guessed attention is above it (None: all).
            - ``tile``: Side of tiles of keys that are chosen together (1), for large maps; not with ``sparsity``.
        kwargs: Arguments of ``mmsparse.DynamicViT``.
    """

    def __init__(self, *args: Any, connectivity: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.predictor: Connectivity | None = None
        if connectivity is None:
            return
        if not isinstance(connectivity, dict):
            raise TypeError(f"Expected argument `connectivity` to be a dict or None, but got {connectivity!r}")
        check_keys("Argument `connectivity`", connectivity, KEYS)
        if self.router is not None and self.router.keys == ENTERING:
            raise ValueError(
                f"Argument `sparsity`: keys={ENTERING!r} and `connectivity` both say what is a key. Remove either"
            )
        with mistakes_in("Argument `connectivity`"):
            self.predictor = self._connect(**connectivity)

    def _connect(
        self,
        keep_ratio: float | Sequence[float] = 0.25,
        blocks: Sequence[int] | None = None,
        rank: int | None = None,
        channels: int | None = None,
        coefficients: int = 8,
        basis_threshold: float = 0.02,
        threshold: float | None = None,
        tile: int = 1,
    ) -> Connectivity:
        allowed = [i for i, window in enumerate(self.windows) if not window]
        blocks = allowed if blocks is None else blocks
        listed = isinstance(blocks, Sequence) and not isinstance(blocks, str)
        if not listed or not blocks or [i for i in allowed if i in blocks] != list(blocks):
            raise ValueError(
                f"Expected argument `blocks` to be ascending numbers of blocks without windows, of {allowed}, but got "
                f"{blocks!r}"
            )
        grid = tuple(self.patch_resolution)
        tokens = self.num_extra_tokens + grid[0] * grid[1]
        dims = self.layers[0].attn.head_dims
        rank = max(tokens // 6, 1) if rank is None else rank
        channels = max(dims // 2, 1) if channels is None else channels
        for name, number in dict(rank=rank, channels=channels, coefficients=coefficients, tile=tile).items():
            if type(number) is not int or number < 1:
                raise ValueError(f"Expected argument `{name}` to be a positive whole number, but got {number!r}")
        for name, number in dict(basis_threshold=basis_threshold, threshold=threshold).items():
            if number is not None and (not isinstance(number, int | float) or number < 0):
                raise ValueError(f"Expected argument `{name}` to be a number >= 0, but got {number!r}")
        if self.router is not None and tile > 1:
            raise ValueError(f"tile={tile} is for whole maps, but `sparsity` leaves tokens out. Remove either")
        if coefficients > rank:
            raise ValueError(
                f"Expected argument `coefficients` to be at most the number of maps in the basis, which is {rank} for "
                f"{tokens} tokens, but got {coefficients}. Give fewer, or a larger `rank`"
            )
        heads = self.layers[0].attn.num_heads
        shape = Shape(
            dims, heads, grid, self.num_extra_tokens, rank, channels, coefficients, basis_threshold, threshold, tile
        )
        return Connectivity(dict.fromkeys(blocks, shape), keep_ratio)

    def export_objection(self, padded: bool) -> str | None:
        if not any(self._connected(i) for i in range(self.num_layers)):
            return super().export_objection(padded)
        return (
            "with `connectivity` each query has keys of its own, which other runtimes could only mask in dense "
            "attention. Export it with connectivity=None (dense keys; --cfg-options), or evaluate it in PyTorch"
        )

    def _connected(self, i: int) -> ConnectivityPredictor | None:
        """The predictor of a block that is not dense."""
        if self.predictor is None or str(i) not in self.predictor.predictors:
            return None
        predictor = self.predictor.predictors[str(i)]
        return predictor if predictor.keep_ratio < 1.0 else None

    def _pattern(self, i: int) -> ConnectivityPredictor | None:
        if self.training and self.predictor is not None and self.predictor.reconstructing:
            return None
        return self._connected(i)

    def _dense(self, i: int, x: Tensor, grid: Grid) -> Tensor:
        self._reconstruct(i, x, grid)
        return super()._dense(i, x, grid)

    def _masked(self, i: int, x: Tensor, grid: Grid, chosen: Keys, keys: Keys | None) -> Tensor:
        self._reconstruct(i, x, grid)
        return super()._masked(i, x, grid, chosen, keys)

    def _reconstruct(self, i: int, x: Tensor, grid: Grid) -> None:
        """Leave how far a block's predictor is from its attention, in the first stage of a training."""
        learning = self.training and torch.is_grad_enabled() and self.predictor is not None
        if not learning or not self.predictor.reconstructing or self._connected(i) is None:
            return
        layer, extra = self.layers[i], self.num_extra_tokens
        with torch.no_grad():
            query, key, _ = split_heads(layer.attn, layer.ln1(x))
            query, key = query.float(), key.float()
            logits = query[:, :, extra:] @ key.transpose(-1, -2)
            attention = (logits * query.shape[-1] ** -0.5).softmax(dim=-1)
        guess = self._connected(i).approximate(query, key, grid)
        with torch.autocast(x.device.type, enabled=False):
            self.predictor.leave(F.mse_loss(guess, attention, reduction="sum") / len(x))
