"""What is a ResNet's own: its batch norms, its first blocks, and what it refuses."""

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.backbones import ResNet
from mmpretrain.models import ResNet as Classifier
from torch import nn

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.apis import record_selections
from mmsparse.models import DynamicResNet, DynamicResNetV1d, DynamicResNeXt
from mmsparse.models.backbones.residual_branch import Branch


def small(kind=DynamicResNet, **kwargs):
    torch.manual_seed(0)
    model = kind(**{**dict(depth=50, base_channels=4, sparsity=dict(keep_ratio=0.5)), **kwargs})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.2)
    return model


def stock(model, kind=ResNet, **kwargs):
    dense = kind(**{**dict(depth=50, base_channels=4), **kwargs})
    missing = dense.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys and all(key.startswith("router.") for key in missing.unexpected_keys)
    return dense


def test_default_places_are_second_blocks_that_are_trained():
    assert small().router.places == ((0, 1), (1, 1), (2, 1), (3, 1))
    assert small(frozen_stages=1).router.places == ((1, 1), (2, 1), (3, 1))
    assert small().router.keep_ratio == (0.5,) * 4
    assert small(depth=18).router.routed == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_weights_of_mmpretrain_fit():
    model = small(DynamicResNet)
    set_keep_ratio(model, 1.0)
    theirs = stock(model, Classifier, base_channels=4, stem_channels=4, out_indices=(0, 1, 2, 3))
    x = torch.randn(1, 3, 70, 90, dtype=torch.float64)
    model.double().eval(), theirs.double().eval()
    for actual, expected in zip(model(x), theirs(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_training_norms_with_everything_kept_are_the_dense_ones():
    """Results, gradients, and what the norms remember."""
    kwargs = dict(norm_eval=False, depth=34, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 2))
    model = small(**kwargs).double().train()
    dense = stock(model, **kwargs).double()
    dense.train()
    set_keep_ratio(model, 1.0)
    x = torch.randn(2, 3, 50, 70, dtype=torch.float64)
    mine, theirs = model(x), dense(x)
    sum(out.square().mean() for out in mine).backward()
    sum(out.square().mean() for out in theirs).backward()
    pop_aux(model)
    for actual, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    state = model.state_dict()
    for name, buffer in dense.named_buffers():
        torch.testing.assert_close(state[name], buffer, rtol=1e-9, atol=1e-9)
    gradients = dict(model.named_parameters())
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("depth", [18, 50])
def test_training_norms_see_each_location_of_the_chosen_tiles_once(depth, momentum):
    model = small(depth=depth, norm_eval=False)
    block = model.layer2[1].double().train()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = momentum
    x = torch.randn(2, block.conv1.in_channels, 9, 10, dtype=torch.float64)  # the last tiles reach over the border
    idx = torch.tensor([0, 2, 5, 8, 11, 17])
    branch = Branch(block, x, tile=4, tiles=18)
    out = branch(idx).view(6, 4, 4, -1)
    inside = torch.zeros(2, 12, 12, dtype=torch.bool)
    for number in idx.tolist():
        image, place = divmod(number, 9)
        inside[image, place // 3 * 4 : place // 3 * 4 + 4, place % 3 * 4 : place % 3 * 4 + 4] = True
    inside = inside[:, :9, :10]

    values = x
    for i in range(1, 4 if depth == 50 else 3):
        conv, norm = getattr(block, f"conv{i}"), getattr(block, f"norm{i}")
        values = conv(values)
        chosen = values.permute(0, 2, 3, 1)[inside]
        mean, var = chosen.mean(dim=0), chosen.var(dim=0, correction=0)
        rate = 1.0 if momentum is None else momentum
        torch.testing.assert_close(norm.running_mean, rate * mean, rtol=1e-9, atol=1e-9)
        expected = (1 - rate) + rate * chosen.var(dim=0)
        torch.testing.assert_close(norm.running_var, expected, rtol=1e-9, atol=1e-9)
        assert norm.num_batches_tracked == 1
        scale = norm.weight / (var + norm.eps).sqrt()
        values = values * scale.view(1, -1, 1, 1) + (norm.bias - mean * scale).view(1, -1, 1, 1)
        values = values.relu() if hasattr(block, f"conv{i + 1}") else values
    torch.testing.assert_close(out[0].permute(2, 0, 1), values[0, :, :4, :4], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out[4, :, :2].permute(2, 0, 1), values[1, :, :4, 8:], rtol=1e-9, atol=1e-9)

    remembered = {name: buffer.clone() for name, buffer in block.named_buffers()}
    with torch.no_grad():  # what is tried for the scores sees the same statistics
        again = branch(torch.tensor([11, 1]))
    torch.testing.assert_close(again[0], out[4].flatten(), rtol=1e-9, atol=1e-9)
    assert all(torch.equal(buffer, remembered[name]) for name, buffer in block.named_buffers())


def test_nothing_chosen_leaves_the_map_and_the_norms_as_they_were():
    model = small(norm_eval=False)
    block = model.layer2[1].train()
    before = {name: buffer.clone() for name, buffer in block.named_buffers()}
    none = Branch(block, torch.randn(1, block.conv1.in_channels, 8, 8), tile=4, tiles=4)(
        torch.empty(0, dtype=torch.long)
    )
    assert none.shape == (0, 16 * 32)
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.named_buffers())


def test_what_is_not_chosen_keeps_its_value():
    model = small(sparsity=dict(places=[(1, 1)], keep_ratio=[0.3], tile=2)).eval()
    inputs = []
    model.layer2[0].register_forward_hook(lambda module, args, out: inputs.append(out))
    with torch.no_grad(), record_selections(model) as taken:
        out = model(torch.randn(1, 3, 64, 80))[1]
    keep = taken[0][1].keep_mask.view(1, 4, 5).repeat_interleave(2, 1).repeat_interleave(2, 2)
    changed = (out != inputs[0]).any(dim=1)
    assert not changed[~keep].any() and changed[keep].all()


def test_norms_can_be_fused():
    model = small().double().eval()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        actual = fuse_conv_bn(model)(x)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_maps_are_in_plain_memory():
    """mmcv's operators read memory as it lies, and are wrong on channels-last maps."""
    assert all(out.is_contiguous() for out in small().eval()(torch.randn(1, 3, 64, 64)))


@pytest.mark.parametrize("kind", [DynamicResNet, DynamicResNetV1d, DynamicResNeXt])
def test_wrong_depth(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected argument `depth` to be one of .*, but got 51"):
        kind(depth=51, sparsity={})


@pytest.mark.parametrize("arguments, said", [
    (dict(sparsity=dict(places=[(1, 0)], keep_ratio=[0.5])), "Block 0 of stage 1 cannot be routed: it changes"),
    (dict(sparsity=dict(tile=0)), "expected `tile` to be a positive whole number, but got 0"),
    (dict(sparsity=dict(skip_windows=True)), "skip_windows is only for mmsparse.DynamicSwin"),
    (
        dict(norm_cfg=dict(type="GN", num_groups=2), sparsity=dict(places=[(2, 1)], keep_ratio=[0.5])),
        r"its norms are GroupNorm, whose statistics are of whole maps \(argument `norm_cfg`\)",
    ),
    (
        dict(conv_cfg=dict(type="ConvWS"), sparsity=dict(places=[(2, 1)], keep_ratio=[0.5])),
        r"its convolutions are ConvWS2d \(argument `conv_cfg`\)",
    ),
    (
        dict(
            plugins=[dict(cfg=dict(type="ContextBlock", ratio=0.25), position="after_conv3")],
            sparsity=dict(places=[(2, 1)], keep_ratio=[0.5]),
        ),
        r"it has plugins, which see whole maps \(argument `plugins`\)",
    ),
    (
        dict(
            dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, True),
            sparsity=dict(places=[(2, 1)], keep_ratio=[0.5]),
        ),
        r"its convolution is deformable \(argument `dcn`\)",
    ),
])  # fmt: skip
def test_what_cannot_be_routed_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        small(**arguments)


def test_stages_that_cannot_be_routed_are_no_default_places():
    plugins = [
        dict(cfg=dict(type="ContextBlock", ratio=0.25), stages=(False, True, True, True), position="after_conv3")
    ]
    assert small(plugins=plugins).router.places == ((0, 1),)
    with pytest.raises(ValueError, match="none of its blocks can be routed: its norms are GroupNorm"):
        small(norm_cfg=dict(type="GN", num_groups=2))
