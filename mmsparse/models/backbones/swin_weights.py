"""Makes a checkpoint fit a Swin backbone: prefixes, the original release's layout, other window and picture sizes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.models.convert.layouts import read
from mmsparse.models.convert.releases import ORIGINAL_SWIN


def fit_swin_weights(content: dict[str, Any], model: nn.Module, original: bool = False) -> dict[str, Tensor]:
    """The backbone's weights of a checkpoint, under the model's names and in its shapes.

    Args:
        content: A loaded checkpoint, with keys with or without ``module.`` and ``backbone.``.
        model: The backbone.
        original: The checkpoint has the layout of the original Swin release.
    """
    state = content.get("state_dict", content.get("model", content))
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    if original:
        state = from_original_swin(state)
    own = model.state_dict()
    for key, value in list(state.items()):
        if key.endswith(("relative_position_index", "attn_mask")):
            del state[key]  # computed from the window and picture sizes, which may differ
        elif key in own and value.shape != own[key].shape:
            if key.endswith("relative_position_bias_table"):
                state[key] = _resized_table(value, own[key])
            elif key == "absolute_pos_embed":
                state[key] = _resized_positions(value, own[key])
    return state


def from_original_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names and channel orders of the original Swin release -> those of mmdet and mmseg, whose norms are others."""
    backbone = {key: value for key, value in state.items() if not key.startswith(("head.", "norm."))}
    return read(backbone, ORIGINAL_SWIN)[0]


def _resized_table(table: Tensor, like: Tensor) -> Tensor:
    """A relative position bias table (L, heads) for another window size."""
    old, new = int(len(table) ** 0.5), int(len(like) ** 0.5)
    square = table.T.reshape(1, -1, old, old)
    return F.interpolate(square, size=(new, new), mode="bicubic").reshape(-1, new * new).T.contiguous()


def _resized_positions(positions: Tensor, like: Tensor) -> Tensor:
    """An absolute position embedding (1, N, C) for another grid; both are taken to be square."""
    old, new = int(positions.shape[1] ** 0.5), int(like.shape[1] ** 0.5)
    square = positions.transpose(1, 2).reshape(1, -1, old, old)
    return F.interpolate(square, size=(new, new), mode="bicubic").flatten(2).transpose(1, 2).contiguous()
