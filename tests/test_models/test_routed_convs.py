"""Necks and heads with routed convolutions: what the laws do not say."""

import copy
import weakref

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.necks import FPN
from torch import nn

import mmsparse
from mmsparse.apis import find_deciders, record_selections
from mmsparse.models import (
    DynamicATSSHead,
    DynamicChannelMapper,
    DynamicFPN,
    DynamicFPNHead,
    DynamicRetinaHead,
    DynamicRPNHead,
    DynamicUPerHead,
)
from mmsparse.models.convs import RoutedConv2d
from mmsparse.ops import conv_cpu, tiles, winograd
from mmsparse.ops.tiles import window
from mmsparse.sparsity import PeakScorer

FPN_ARGS = dict(in_channels=[8, 16, 32, 64], out_channels=12, num_outs=5)
ANCHORS = dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32])
RETINA = dict(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=2, anchor_generator=ANCHORS)


def maps(channels, size=(48, 64)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size[0] >> i, size[1] >> i, generator=generator) for i, c in enumerate(channels)]


def routed(module):
    return [name for name, child in module.named_modules() if isinstance(child, RoutedConv2d)]


def test_which_convolutions_are_routed():
    fpn = DynamicFPN(**FPN_ARGS, add_extra_convs="on_input", sparsity={})
    assert routed(fpn) == [f"fpn_convs.{i}.conv" for i in range(3)]  # not P5, laterals and the strided one
    assert len(routed(DynamicFPN(**FPN_ARGS, sparsity=dict(levels=9)))) == 4
    towers = [f"{tower}.{i}.conv" for tower in ("cls_convs", "reg_convs") for i in range(2)]
    assert routed(DynamicRetinaHead(**RETINA, sparsity={})) == towers
    head = DynamicRetinaHead(**RETINA, route_predictors=True, sparsity={})
    assert routed(head) == [*towers, "retina_cls", "retina_reg"]
    rpn = DynamicRPNHead(in_channels=8, feat_channels=8, anchor_generator=ANCHORS, sparsity={})
    assert routed(rpn) == ["rpn_conv"]
    decode = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=3, feature_strides=[4, 8, 16, 32])
    assert routed(DynamicFPNHead(**decode, sparsity=dict(levels=2))) == [
        f"scale_heads.{name}.conv" for name in ("0.0", "1.0", "2.2", "3.4")
    ]


def test_a_level_decides_once_for_all_towers():
    head = DynamicRetinaHead(**RETINA, sparsity=dict(keep_ratio=0.5)).eval()
    feats = maps([8] * 4)
    with torch.no_grad(), record_selections(head) as taken:
        head(feats)
    assert [name for name, _ in taken] == ["head.level0", "head.level1", "head.level2"]
    assert [s.grid for _, s in taken] == [(12, 16), (6, 8), (3, 4)]
    assert [s.num_keep for _, s in taken] == [[96, 96], [24, 24], [6, 6]]


def test_the_windows_of_a_level_are_computed_once_for_all_towers(monkeypatch):
    head = DynamicRetinaHead(**RETINA, sparsity=dict(keep_ratio=0.5, levels=1)).eval()
    asked = []
    monkeypatch.setattr(tiles, "window", lambda *args: (asked.append(args), window(*args))[1])
    feats = maps([8] * 4)
    with torch.no_grad():
        first = head(feats)
        assert len(asked) == 3  # of 4 convolutions: kept tiles with and without halo, all others
        again = head([f.flip(0) for f in feats])
    assert len(asked) == 6  # nothing is kept for another call
    for one, other in zip([*first[0], *first[1]], [*again[0], *again[1]], strict=True):
        torch.testing.assert_close(one, other.flip(0))


def test_weights_of_older_default_scorers_bring_their_kind():
    """Until 0.1 a scorer of a neck or head saw the mean of a tile."""
    old = DynamicRetinaHead(**RETINA, sparsity=dict(scorer=dict(type="LocalGlobalScorer", hidden=4))).eval()
    for parameter in old.router.parameters():
        nn.init.normal_(parameter)
    new = DynamicRetinaHead(**RETINA, sparsity={}).eval()
    assert {type(d.scorer) for d in find_deciders(new)} == {PeakScorer}
    new.load_state_dict(old.state_dict())
    feats = maps([8] * 4)
    with torch.no_grad(), record_selections(old) as one, record_selections(new) as other:
        old(feats)
        new(feats)
    for (_, a), (_, b) in zip(one, other, strict=True):
        assert torch.equal(a.keep_mask, b.keep_mask)
    given = DynamicRetinaHead(**RETINA, sparsity=dict(scorer=dict(type="PeakScorer")))
    with pytest.raises(RuntimeError, match="Missing key"):
        given.load_state_dict(old.state_dict())


def test_levels_of_one_size_decide_each_for_itself():
    anchors = dict(ANCHORS, strides=[4, 4, 4])
    head = DynamicRPNHead(in_channels=8, feat_channels=8, anchor_generator=anchors, sparsity=dict(levels=2, tile=4))
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    one, two, three = (torch.randn(2, 8, 8, 12) for _ in range(3))
    with torch.no_grad(), record_selections(head.eval()) as taken:
        scores, _ = head([one, two, three])
        dense = [head.rpn_cls(conv_dense(head.rpn_conv, x).relu()) for x in (one, two, three)]
    masks = [selection.keep_mask.view(2, 1, 2, 3) for _, selection in taken]
    assert len(masks) == 2 and not torch.equal(*masks)
    for level, mask in enumerate(masks):
        same = (scores[level] - dense[level]).abs() < 1e-4
        tiles = same.view(2, 1, 2, 4, 3, 4).all(dim=5).all(dim=3)
        assert torch.equal(tiles, mask)
    torch.testing.assert_close(scores[2], dense[2])  # beyond the routed ones


def conv_dense(conv, x):
    return nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_maps_leave_a_neck_in_plain_memory(ratio, training):
    """mmcv's RoIAlign reads memory as it lies, and is wrong on channels-last maps."""
    fpn = DynamicFPN(**FPN_ARGS, sparsity=dict(keep_ratio=ratio)).train(training)
    assert all(m.is_contiguous() for m in fpn(maps([8, 16, 32, 64])))


def test_unselected_tiles_see_the_sum_of_the_kernel():
    fpn = DynamicFPN(**FPN_ARGS, sparsity=dict(keep_ratio=0.5)).eval()
    conv = fpn.fpn_convs[0].conv
    with torch.no_grad():
        conv.weight.normal_()
        conv.bias.normal_()
        constant = torch.randn(1, 12, 1, 1).expand(1, 12, 40, 40)
        out = conv(constant)
        dense = nn.functional.conv2d(constant, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(out[..., 4:-4, 4:-4], dense[..., 4:-4, 4:-4], rtol=0, atol=1e-4)


def test_one_number_or_one_per_part():
    model = nn.ModuleDict(
        dict(neck=DynamicFPN(**FPN_ARGS, sparsity={}), bbox_head=DynamicRetinaHead(**RETINA, sparsity={}))
    )
    mmsparse.set_keep_ratio(model, 0.25)
    assert [d.keep_ratio for d in find_deciders(model)] == [0.25] * 6
    mmsparse.set_keep_ratio(model, dict(neck=[0.9, 0.8, 0.7], head=0.5))
    assert [d.keep_ratio for d in find_deciders(model)] == [0.9, 0.8, 0.7, 0.5, 0.5, 0.5]
    mmsparse.set_keep_ratio(model, dict(bbox_head=1.0))
    assert [d.keep_ratio for d in find_deciders(model)] == [0.9, 0.8, 0.7, 1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"one number, or a dict of the parts \['neck', 'bbox_head'\]"):
        mmsparse.set_keep_ratio(model, [0.5] * 3)
    with pytest.raises(ValueError, match=r"names \['backbone'\], but the dynamic parts are \['neck', 'bbox_head'\]"):
        mmsparse.set_keep_ratio(model, dict(backbone=0.5))
    with pytest.raises(
        ValueError, match=r"one for each of the \d places \['neck.fpn_convs.0.conv', .*but got 2 numbers: \[0.5, 1\]"
    ):
        mmsparse.set_keep_ratio(model, dict(neck=[0.5, 1]))


def test_a_copy_has_its_own_router():
    fpn = DynamicFPN(**FPN_ARGS, sparsity={})
    twin = copy.deepcopy(fpn)
    mmsparse.set_keep_ratio(twin, 0.1)
    assert fpn.router.keep_ratio == (0.5, 0.5, 0.5)
    with record_selections(twin) as taken, torch.no_grad():
        twin.eval()(maps([8, 16, 32, 64]))
    assert [s.count for _, s in taken] == [19, 5, 1]


def test_dense_initialisation_reaches_routed_convolutions():
    torch.manual_seed(0)
    stock = FPN(**FPN_ARGS)
    stock.init_weights()
    dynamic = DynamicFPN(**FPN_ARGS, sparsity={})
    torch.manual_seed(0)
    dynamic.init_weights()
    limit = (6 / (12 * 9 + 12 * 9)) ** 0.5  # Xavier, uniform
    for module in (stock, dynamic):
        weight = module.fpn_convs[0].conv.weight
        assert 0.95 * limit < weight.abs().max().item() <= limit
        assert not module.fpn_convs[0].conv.bias.any()


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(tile=0)),
            "^DynamicFPN: argument `sparsity`: Expected argument `tile` to be a positive .*, but got 0",
        ),
        (lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(coarse=1)), "`coarse` to be True or False, but got 1"),
        (lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(levels=1.5)), "`levels` to be a positive whole number, .* 1.5"),
        (lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(keep_ratio=1.5)), r"`keep_ratio` to be in \(0, 1\], but got 1.5"),
        (
            lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(scorer=dict(type="AttentionScorer"))),
            "^DynamicFPN: argument `sparsity`: AttentionScorer reads attention, which a convolution lacks",
        ),
        (
            lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(scorer=dict(type="TopKSelector"))),
            "Expected argument `scorer` .*but got 'TopKSelector'",
        ),
        (
            lambda: DynamicFPN(**FPN_ARGS, sparsity=dict(selector=dict(type="MLPScorer"))),
            "Expected argument `selector` .*but got 'MLPScorer'",
        ),
        (
            lambda: DynamicFPN(**FPN_ARGS, conv_cfg=dict(type="DCNv2", deform_groups=1), sparsity={}),
            "DynamicFPN: argument `sparsity`: its layer fpn_convs.0.conv is a ModulatedDeformConv2dPack, but",
        ),
        (
            lambda: DynamicRetinaHead(**{**RETINA, "stacked_convs": 0}, sparsity={}),
            "DynamicRetinaHead: argument `sparsity`: it has no convolution that can be routed, like a head with",
        ),
        (
            lambda: DynamicChannelMapper(in_channels=[8, 8], out_channels=8, kernel_size=1, sparsity={}),
            r"DynamicChannelMapper: argument `sparsity`: its layer convs.0.conv has a kernel of \(1, 1\), but",
        ),
    ],
)
def test_what_cannot_be_routed_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_unknown_keys_are_named():
    known = "'coarse', 'detach', 'explore', 'keep_ratio', 'learn', 'levels', 'scorer', 'selector', 'tile'"
    sentence = rf"^DynamicFPN: argument `sparsity` has the unknown key 'ratio'; it knows \[{known}\]$"
    with pytest.raises(ValueError, match=sentence):
        DynamicFPN(**FPN_ARGS, sparsity=dict(ratio=0.5))
    with pytest.raises(TypeError, match="DynamicFPN: expected argument `sparsity` to be a dict or None, but got 0.5"):
        DynamicFPN(**FPN_ARGS, sparsity=0.5)


def test_outside_of_its_forward():
    head = DynamicRetinaHead(**RETINA, sparsity={}).eval()
    with pytest.raises(RuntimeError, match="cls_convs.0.conv was called outside of its module's forward"):
        head.forward_single(torch.randn(1, 8, 8, 8))


def test_the_fusion_of_an_upernet_reads_channels_side_by_side():
    """Else its map, the largest of all, would be turned over before it is read."""
    decode = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=3, pool_scales=(1, 2))
    head = DynamicUPerHead(**decode, sparsity={}).eval()
    seen = []
    head.fpn_bottleneck.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        head(maps([8] * 4))
    assert seen[0].shape == (2, 32, 48, 64) and seen[0].is_contiguous(memory_format=torch.channels_last)


def test_a_neck_lays_a_map_when_it_is_asked_for():
    """Copies of all of them, beside the maps, would be more than a dense neck has."""
    neck, copies, seen = DynamicFPN(**FPN_ARGS, sparsity={}).eval(), [], []

    def note(_, args):
        copies.append(weakref.ref(args[0]))
        alive = sum(copy() is not None for copy in copies)
        seen.append((args[0].is_contiguous(memory_format=torch.channels_last), alive))

    for lateral in neck.lateral_convs:
        lateral.conv.register_forward_pre_hook(note)
    with torch.no_grad():
        neck(maps(FPN_ARGS["in_channels"]))
    assert seen == [(True, 1)] * 4


@pytest.mark.parametrize("gradients", [False, True])
def test_a_head_lays_no_level_unless_gradients_keep_it(gradients):
    head, feats = DynamicRetinaHead(**RETINA, sparsity={}), maps([8] * 4)
    read = []
    for tower in (head.cls_convs, head.reg_convs):
        tower[0].conv.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.set_grad_enabled(gradients):
        head(feats)
    for level, first, second in zip(feats, read[::2], read[1::2], strict=True):
        assert first is second and (first is level) == (not gradients) and torch.equal(first, level)
        assert first.is_contiguous(memory_format=torch.channels_last) == gradients


@pytest.mark.parametrize("large", [False, True])
def test_levels_share_a_transformed_kernel_unless_it_is_large(monkeypatch, large):
    head, made = DynamicRetinaHead(**RETINA, sparsity={}).eval(), []
    transform = winograd.transform_kernel
    monkeypatch.setattr(winograd, "transform_kernel", lambda weight: (made.append(weight), transform(weight))[1])
    monkeypatch.setattr(conv_cpu, "LARGE", 4 * 8 * 8 * 9 - large)
    with torch.no_grad():
        head(maps([8] * 4))
    assert len(made) == (4 * 3 if large else 4)  # convolutions and routed levels


BN = dict(type="BN")
DECODE = dict(in_channels=[8] * 4, in_index=[0, 1, 2, 3], channels=8, num_classes=3, norm_cfg=BN, dropout_ratio=0.0)
NORMED = {
    "FPN": lambda: DynamicFPN([8] * 4, 8, num_outs=4, norm_cfg=BN, sparsity={}),
    "ATSS": lambda: DynamicATSSHead(**RETINA, norm_cfg=BN, sparsity={}),
    "UPerNet": lambda: DynamicUPerHead(**DECODE, pool_scales=(1, 2), sparsity={}),
    "FPNHead": lambda: DynamicFPNHead(**DECODE, feature_strides=[4, 8, 16, 32], sparsity={}),
}


def trained(part):
    """In double precision, as if trained: nothing is zero or one, not even a fast path's own share."""
    for name, module in part.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2.0)
        elif "fast_paths." in name:
            nn.init.normal_(module.weight, std=0.2)
            nn.init.normal_(module.bias)
    return part.double().eval()


def flat(tree):
    return [tree] if isinstance(tree, torch.Tensor) else [leaf for part in tree for leaf in flat(part)]


@pytest.mark.parametrize("name", NORMED)
def test_batch_norms_are_fused_into_both_paths(name):
    part, inputs = trained(NORMED[name]()), [m.double() for m in maps([8] * 4)]
    with torch.no_grad():
        before = flat(part(inputs))
        fuse_conv_bn(part)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in part.modules())
        for fused, plain in zip(flat(part(inputs)), before, strict=True):
            torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12 * plain.abs().max().item())


def test_a_fast_path_follows_its_own_kernel_alone():
    neck = trained(NORMED["FPN"]())
    conv, fast = neck.fpn_convs[0].conv, neck.router.fast_path("fpn_convs.0.conv")
    before = fast.weight.detach().clone()
    conv.weight = nn.Parameter(conv.weight.detach().clone())
    conv.weight = nn.Parameter(torch.randn_like(conv.weight))  # another network's
    neck.load_state_dict(neck.state_dict(), assign=True)
    assert torch.equal(fast.weight, before)
    with torch.no_grad():
        conv.weight[5] = 0
    with pytest.raises(RuntimeError, match=r"whose kernel is zero in the output channels \[5\]: by how much"):
        fuse_conv_bn(neck)
    assert torch.equal(fast.weight, before)


def test_a_name_that_is_none_is_told():
    class Misspelt(DynamicFPN):
        def routed_convs(self, levels):
            return ["fpn_convs.0.convolution"]

    with pytest.raises(ValueError, match="`routed_convs` of Misspelt names 'fpn_convs.0.convolution', which it lacks"):
        Misspelt(**FPN_ARGS, sparsity={})


@pytest.mark.parametrize("channels, deep", [(8, 0), (32, 2)])
def test_scorers_look_further_where_that_costs_little(channels, deep):
    head = DynamicRetinaHead(**{**RETINA, "in_channels": channels, "feat_channels": channels}, sparsity={})
    assert {len(decider.scorer.deep) for decider in find_deciders(head)} == {deep}
