import copy

import pytest
import torch
from counting import macs_of

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.models import DynamicConvNeXt


def backbone(**kwargs):
    defaults = dict(arch="atto", out_indices=(0, 1, 2, 3), gap_before_final_norm=False, layer_scale_init_value=1.0)
    return DynamicConvNeXt(**{**defaults, "sparsity": dict(keep_ratio=0.7), **kwargs})


@pytest.mark.usefixtures("unfilled")
def test_default_places_are_the_papers():
    assert backbone(arch="tiny").router.places == ((2, 1), (2, 2), (2, 3))
    assert backbone(arch="small").router.places == ((2, 3), (2, 6), (2, 9))
    assert backbone(arch="tiny").router.routed == [(2, block) for block in range(1, 9)]
    assert backbone(arch="small").router.keep_ratio == (0.7, 0.5, 0.3)


def test_train_returns_self():
    model = backbone(out_indices=(1, -1))
    assert model.train() is model and model.eval() is model
    maps = model(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(80, 8, 12), (320, 2, 3)]


def test_layer_depth_gives_new_parts_the_head_group():
    model = backbone(arch="tiny")
    last = model.get_layer_depth("backbone.norm3.weight", "backbone.")
    assert model.get_layer_depth("backbone.router.decisions.2_1.scorer.head.0.weight", "backbone.") == last
    assert model.get_layer_depth("backbone.stages.2.4.gamma", "backbone.") == (4, 8)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("linear", [True, False])
def test_both_pointwise_layouts_agree(linear, v2):
    kwargs = dict(use_grn=True, layer_scale_init_value=0.0) if v2 else {}
    model = backbone(linear_pw_conv=linear, **kwargs)
    twin = backbone(linear_pw_conv=True, **kwargs)
    state = {k: v.flatten(1) if "pointwise" in k and v.dim() == 4 else v for k, v in model.state_dict().items()}
    twin.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model.eval()(x), twin.eval()(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_frozen_stages_freeze_their_routing_too():
    model = backbone(frozen_stages=3, sparsity=dict(places=[(2, 1), (3, 0)], keep_ratio=[0.5, 0.5])).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {
        n
        for n, _ in model.named_parameters()
        if n.startswith(("stages.2", "router.decisions.2_1", "router.fast_paths.2_"))
    } <= frozen
    assert not any(name.startswith(("stages.3", "router.decisions.3_0", "router.fast_paths.3_")) for name in frozen)
    model(torch.randn(1, 3, 64, 64))
    assert [d.name for d in pop_aux(model)] == ["s3b0"]  # the frozen place follows the exact rule and learns nothing


def test_set_keep_ratio_moves_the_arithmetic_and_one_is_dense():
    model = backbone().eval()
    dense = backbone(sparsity=None).eval()
    dense.load_state_dict(model.state_dict(), strict=False)
    counts = []
    for ratio in (0.5, 0.7, 1.0):
        set_keep_ratio(model, ratio)
        counts.append(macs_of(model, 224, 224))
    assert counts[0] < counts[1] < counts[2] == macs_of(dense, 224, 224)
    x = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(model(x), dense(x), strict=True))
    with pytest.raises(ValueError, match="has no dynamic part"):
        set_keep_ratio(dense, 0.5)


def test_deepcopy_before_a_step():
    model = backbone().train()
    twin = copy.deepcopy(model)
    model(torch.randn(1, 3, 32, 32))
    assert pop_aux(twin) == [] and len(pop_aux(model)) == 3


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        (dict(arch="mini"), ValueError, r"`arch` to be one of \['atto'.*but got 'mini'"),
        (dict(arch=dict(depths=[1])), ValueError, "depths and channels"),
        (dict(sparsity=0.7), TypeError, "`sparsity` to be a dict or None, but got 0.7"),
        (
            dict(sparsity=dict(ratio=0.7, plain=True)),
            ValueError,
            r"^Argument `sparsity` has the unknown keys 'plain', 'ratio'; it knows \['cumulative', 'detach', "
            r"'explore', 'fast_path', 'keep_ratio', 'keys', 'learn', 'places', 'scorer', 'selector', 'share_scorer'\]$",
        ),
        (
            dict(sparsity=dict(skip_windows=True)),
            ValueError,
            "^Argument `sparsity`: skip_windows is only for mmsparse.DynamicSwin",
        ),
        (
            dict(sparsity=dict(cumulative=True)),
            ValueError,
            "^Argument `sparsity`: cumulative=True drops .* or use mmsparse.DynamicViT$",
        ),
        (
            dict(depth=3),
            TypeError,
            "^DynamicConvNeXt: .*'depth'.* arguments of ConvNeXt: arch, in_channels, ",
        ),
        (
            dict(sparsity=dict(keep_ratio=1.5)),
            ValueError,
            r"^Argument `sparsity`: Expected argument `keep_ratio` to be in \(0, 1\], but got 1.5",
        ),
        (dict(sparsity=dict(places=[(5, 0)])), ValueError, r"`places` to hold .*but got \(5, 0\)"),
        (dict(sparsity=dict(explore=0)), ValueError, r"`explore` to be in \(0, 1\], but got 0"),
        (dict(norm_cfg=dict(type="BN")), ValueError, "'LN2d', but got 'BN'"),
        (dict(arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 8, 8])), ValueError, "`places`"),
    ],
)
def test_mistakes_are_named_when_it_is_built(kwargs, error, message):
    with pytest.raises(error, match=message):
        backbone(**kwargs)


@pytest.mark.parametrize("shape, message", [((3, 64, 64), "shape"), ((1, 3, 16, 64), "at least 32x32 pixels.*16x64")])
def test_wrong_input_is_named(shape, message):
    with pytest.raises(ValueError, match=message):
        backbone()(torch.randn(*shape))


def test_the_parents_init_leaves_fast_paths_at_zero():
    """mmpretrain's ConvNeXt redraws every linear layer of its tree."""
    model = DynamicConvNeXt(arch="atto", out_indices=[3], sparsity=dict(keep_ratio=0.7))
    model.init_weights()
    assert not any(path.linear.weight.any() for path in model.router.fast_paths.values())
    assert model.router.decisions["2_1"].scorer.head[-1].bias.item() == 0
    assert model.stages[0][0].pointwise_conv1.weight.std() < 0.03


def test_maps_leave_the_backbone_in_plain_memory():
    """mmcv's operators read memory as it lies, and are wrong on channels-last maps."""
    model = DynamicConvNeXt(arch="atto", out_indices=[0, 3], gap_before_final_norm=False, sparsity={}).eval()
    with torch.no_grad():
        assert all(m.is_contiguous() for m in model(torch.randn(1, 3, 64, 96)))
