"""What mmcv's compiled module does, by torchvision and plain PyTorch; imported as ``mmcv._ext`` where that is missing.

Names, arguments and results are those of the compiled functions: outputs are tensors that the caller made, and they are
filled. What only says how the compiled ones work (``columns``, ``im2col_step``) is taken and left. Any other name of
theirs is there as well, since mmcv asks for all of them on import, and says when called that it is not served.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor
from torch.nn import functional as F

from mmsparse.mmcv_ops.boxes import nms, nms_match, softnms
from mmsparse.mmcv_ops.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmsparse.mmcv_ops.precision import wide

__all__ = [
    "carafe_backward",
    "carafe_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "roi_align_backward",
    "roi_align_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]

refused: set[str] = set()  # names that mmcv asked for and that are not served


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    refused.add(name)
    return partial(_refuse, name)


def _refuse(name: str, *args: Any, **kwargs: Any) -> NoReturn:
    raise RuntimeError(
        f"mmcv's operator {name} is not there: mmcv is installed without its compiled operators, and mmsparse has no "
        "stand-in for this one. `OPS=compiled make setup` in a clone of mmsparse compiles them all; "
        "`python -m mmsparse.env` says which are served without."
    )


def get_compiler_version() -> str:
    return "none: mmsparse serves the operators from torchvision and PyTorch"


def get_compiling_cuda_version() -> str:
    return "none"


def roi_align_forward(
    input: Tensor,  # (B, C, H, W)
    rois: Tensor,  # (N, 5): picture, x1, y1, x2, y2
    output: Tensor,  # (N, C, height, width)
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    if pool_mode == 0:
        _refuse("roi_align with pool_mode='max'")
    bins = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.torchvision.roi_align(*wide(input, rois), *bins))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    bins = (spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(*wide(grad_output, rois), *bins))


TINY = torch.finfo(torch.float32).tiny  # the compiled losses take the logarithm of no less


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Of logits (N, classes) and labels (N,), where any label beyond the classes is background."""
    p = wide(input)[0].sigmoid()
    hit = alpha * (1 - p) ** gamma * p.clamp_min(TINY).log()
    miss = (1 - alpha) * p**gamma * (1 - p).clamp_min(TINY).log()
    output.copy_(-torch.where(_is_label(target, p), hit, miss) * _label_weights(weight, target)[:, None])


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    p = wide(input)[0].sigmoid()
    hit = alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.clamp_min(TINY).log())
    miss = (1 - alpha) * p**gamma * (gamma * (1 - p) * (1 - p).clamp_min(TINY).log() - p)
    grad_input.copy_(-torch.where(_is_label(target, p), hit, miss) * _label_weights(weight, target)[:, None])


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Of probabilities (N, classes) and labels (N,); a negative label is ignored."""
    p = wide(softmax)[0].gather(1, target.clamp_min(0)[:, None])[:, 0]
    loss = -alpha * (1 - p) ** gamma * p.clamp_min(TINY).log()
    output.copy_(torch.where(target >= 0, loss, 0) * _label_weights(weight, target))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    every = wide(softmax)[0]
    p = every.gather(1, target.clamp_min(0)[:, None])[:, 0]
    slope = alpha * (gamma * (1 - p) ** (gamma - 1) * p * p.clamp_min(TINY).log() - (1 - p) ** gamma)
    buff.copy_(torch.where(target >= 0, slope, 0) * _label_weights(weight, target))
    grad_input.copy_(buff[:, None] * (_is_label(target, every).to(every.dtype) - every))


def _is_label(target: Tensor, scores: Tensor) -> Tensor:
    return target[:, None] == torch.arange(scores.shape[1], device=target.device)


def _label_weights(weight: Tensor, target: Tensor) -> Tensor:
    return weight[target] if weight.numel() else torch.ones_like(target, dtype=torch.float32)


def ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """By mmcv's own fallback for a CPU; mmcv calls this one for a GPU only."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_locations: Tensor,
    grad_weights: Tensor,
    im2col_step: int,
) -> None:
    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step)

    grads = _gradients(attend, (value, locations, weights), grad_output)
    _fill((grad_value, grad_locations, grad_weights), grads)


def carafe_forward(
    features: Tensor,  # (B, C, H, W)
    masks: Tensor,  # (B, groups * kernel^2, H * scale, W * scale)
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,  # (B, C, H * scale, W * scale)
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    rfeatures.copy_(features)  # all that the backward gets of them
    output.copy_(_carafe(features, masks, kernel_size, group_size, scale_factor))


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rgrad_output: Tensor,
    rgrad_input_hs: Tensor,
    rgrad_input: Tensor,
    rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    reassemble = partial(_carafe, kernel=kernel_size, groups=group_size, scale=scale_factor)
    _fill((grad_input, grad_masks), _gradients(reassemble, (rfeatures, masks), grad_output))


def _carafe(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Each location of the larger map sums the neighbourhood below it with weights of its own."""
    batch, channels, height, width = features.shape
    near = F.unfold(features, kernel, padding=kernel // 2)
    near = near.view(batch, groups, channels // groups, kernel**2, height, width)
    masks = masks.view(batch, groups, kernel**2, height, scale, width, scale)
    out = torch.einsum("bgckhw,bgkhiwj->bgchiwj", near, masks)
    return out.reshape(batch, channels, height * scale, width * scale)


def masked_im2col_forward(
    features: Tensor,  # (1, C, H, W)
    rows: Tensor,  # (N,), as `columns` of locations of the output
    columns: Tensor,
    data_col: Tensor,  # (C * kernel, N)
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    patches = F.unfold(features[:1], (kernel_h, kernel_w), padding=(pad_h, pad_w))[0]  # (C * kernel, H' * W')
    data_col.copy_(patches[:, rows * (features.shape[3] + 2 * pad_w - kernel_w + 1) + columns])


def masked_col2im_forward(
    data_col: Tensor, rows: Tensor, columns: Tensor, output: Tensor, height: int, width: int, channels: int
) -> None:
    output[0, :, rows, columns] = data_col


def _gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        inputs = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        return torch.autograd.grad(function(*inputs), inputs, grad)


def _fill(targets: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> None:
    for target, value in zip(targets, values):
        target.copy_(value)
