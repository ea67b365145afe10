"""What a routed attention keeps for its backward pass."""

import pytest
import torch

from mmsparse import pop_aux
from mmsparse.models import DynamicViT

WINDOWS = dict(window_size=5, with_cls_token=False)


def squares_for_backward(model, x, side):
    """How many different tensors (..., side, side) a training forward keeps for its backward pass."""
    kept = []

    def keep(tensor):
        kept.append(tensor)  # so that nothing takes its place in memory
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(x)
    pop_aux(model)
    square = [t for t in kept if t.dim() > 1 and t.shape[-2:] == (side, side)]
    return len({t.untyped_storage().data_ptr() for t in square})


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "more, own, side",
    [
        (dict(), dict(), 37),
        (dict(), dict(keys="entering", cumulative=True), 37),
        (WINDOWS, dict(), 25),
        (dict(**WINDOWS, global_attn_indexes=[2, 4]), dict(), 25),
        (dict(**WINDOWS, global_attn_indexes=[2, 4]), dict(), 36),
    ],
)
@pytest.mark.parametrize("blocks", [5, 9])
def test_a_decision_has_one_mask_for_all_its_blocks(more, own, side, blocks, autocast):
    arch = dict(embed_dims=48, num_layers=blocks, num_heads=3, feedforward_channels=96)
    sparsity = dict(places=[1, 3], keep_ratio=[0.6, 0.4], **own)
    model = DynamicViT(arch=arch, img_size=96, out_type="featmap", sparsity=sparsity, **more)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert squares_for_backward(model, torch.randn(2, 3, 96, 96), side) == 2
