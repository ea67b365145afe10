import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer as DetSwin
from mmdet.models.backbones.swin import swin_converter
from mmpretrain.models import SwinTransformer as PretrainSwin

from mmsparse.analysis import count_macs
from mmsparse.apis import record_selections
from mmsparse.models import DynamicSwin
from mmsparse.models.backbones.swin_weights import from_original_swin

SMALL = dict(embed_dims=16, depths=(2, 2, 4, 2), num_heads=(1, 1, 2, 2), window_size=4, drop_path_rate=0.0)


def backbone(**kwargs):
    return DynamicSwin(**{**SMALL, "sparsity": dict(keep_ratio=0.7), **kwargs})


def original_layout(state):
    """What the original release would call these weights, in its channel order."""
    names = {"attn.w_msa.": "attn.", "ffn.layers.0.0.": "mlp.fc1.", "ffn.layers.1.": "mlp.fc2.",
             "stages.": "layers.", "patch_embed.projection.": "patch_embed.proj."}  # fmt: skip
    result = {"head.weight": torch.zeros(10, 128)}
    for key, value in state.items():
        if "downsample" in key:  # channels x (row, column) -> (column, row) x channels
            value = value.unflatten(-1, (-1, 2, 2)).permute(*range(value.dim() - 1), -1, -2, -3).flatten(-3)
        for new, old in names.items():
            key = key.replace(new, old)
        result[key] = value
    return result


def test_default_places_are_the_papers():
    assert backbone(depths=(2, 2, 6, 2)).router.places == ((2, 1), (2, 2), (2, 3))
    assert backbone(depths=(2, 2, 18, 2)).router.places == ((2, 2), (2, 4), (2, 6))


def test_train_returns_self():
    model = backbone(out_indices=(1, 3))
    assert model.train() is model and model.eval() is model


def test_layer_depth_counts_blocks():
    model = backbone()
    depths = [model.get_layer_depth(f"backbone.{name}", "backbone.")[0] for name in (
        "patch_embed.projection.weight", "stages.0.blocks.0.norm1.weight", "stages.1.blocks.1.norm1.weight",
        "stages.1.downsample.reduction.weight", "norm3.weight", "router.fast_paths.2_1.linear.weight")]  # fmt: skip
    assert depths == [0, 1, 4, 4, 11, 11]
    assert model.get_layer_depth("bbox_head.weight", "backbone.") == (11, 12)


def test_original_weights_convert_as_in_mmdet():
    state = DetSwin(**SMALL).state_dict()
    original = original_layout(state)
    ours = from_original_swin(original)
    stock = {key.removeprefix("backbone."): value for key, value in swin_converter(original).items()}
    assert ours.keys() == stock.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(ours[key], value) and torch.equal(stock[key], value), key


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | {"head.fc.weight": torch.ones(1)}},
    lambda state: {"state_dict": {f"module.backbone.{k}": v for k, v in state.items()}},
    lambda state: {"model": state},
    lambda state: state,
])  # fmt: skip
def test_pretrained_weights_load_with_any_prefix(wrap, tmp_path):
    state = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in DetSwin(**SMALL).state_dict().items()}
    torch.save(wrap(state), tmp_path / "dense.pth")
    model = backbone(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "dense.pth")))
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert not any(path.linear.weight.any() for path in model.router.fast_paths.values())


def test_absolute_positions_fit_other_pictures_and_other_pretraining(tmp_path):
    dense = backbone(use_abs_pos_embed=True, pretrain_img_size=32, sparsity=None)
    torch.nn.init.normal_(dense.absolute_pos_embed)
    stock = DetSwin(**SMALL, use_abs_pos_embed=True, pretrain_img_size=32)
    stock.load_state_dict(dense.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for a, b in zip(dense(x), stock(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert [tuple(m.shape[-2:]) for m in dense(torch.randn(1, 3, 40, 64))] == [(10, 16), (5, 8), (3, 4), (2, 2)]
    torch.save({"model": dense.state_dict()}, tmp_path / "dense.pth")
    larger = backbone(use_abs_pos_embed=True, pretrain_img_size=64, window_size=7,
                      init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "dense.pth")))  # fmt: skip
    larger.init_weights()
    assert larger.absolute_pos_embed.shape == (1, 256, 16)
    centre = [m.stages[0].blocks[0].attn.w_msa.relative_position_bias_table for m in (dense, larger)]
    torch.testing.assert_close(centre[1][84], centre[0][24])  # the offset (0, 0) stays where it is


def test_a_float_mlp_ratio_is_allowed_as_in_mmseg():
    assert backbone(mlp_ratio=2.5).stages[0].blocks[0].ffn.layers[0][0].out_features == 40


def test_skipping_windows_saves_their_attention():
    torch.manual_seed(1)
    x = torch.randn(1, 3, 128, 128)
    counts = {}
    for skip in (False, True):
        model = backbone(sparsity=dict(places=[(0, 0)], keep_ratio=[0.02], skip_windows=skip)).eval()
        counts[skip] = count_macs(model, lambda model=model: model(x)).total
    attention = 2 * 1024 * (4 * 16**2 + 2 * 16 * 16)  # of the two blocks of the first stage
    assert attention * 0.5 < counts[False] - counts[True] < attention


def test_frozen_stages_freeze_their_routing_too():
    model = backbone(frozen_stages=3, sparsity=dict(places=[(2, 1), (3, 0)], keep_ratio=[0.5, 0.5])).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert "router.fast_paths.2_1.linear.weight" in frozen and "patch_embed.projection.weight" in frozen
    assert not any(name.startswith(("stages.3", "router.decisions.3_0", "router.fast_paths.3_")) for name in frozen)


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        (dict(sparsity=0.7), TypeError, "`sparsity` to be a dict or None, but got 0.7"),
        (
            dict(sparsity=dict(ratio=0.7, plain=True)),
            ValueError,
            r"^Argument `sparsity` has the unknown keys 'plain', 'ratio'; it knows \['cumulative', 'detach', "
            r"'explore', 'fast_path', 'keep_ratio', 'keys', 'learn', 'places', 'scorer', 'selector', 'share_scorer', "
            r"'skip_windows'\]$",
        ),
        (
            dict(arch="tiny"),
            TypeError,
            "^DynamicSwin: .*'arch'. .* takes the arguments of SwinTransformer: .*embed_dims, .*depths, num_heads, ",
        ),
        (
            dict(sparsity=dict(keep_ratio=1.5)),
            ValueError,
            r"^Argument `sparsity`: Expected argument `keep_ratio` to be in \(0, 1\], but got 1.5",
        ),
        (dict(sparsity=dict(places=[(2, 9)])), ValueError, r"`places` to hold .*but got \(2, 9\)"),
    ],
)
def test_mistakes_are_named_when_it_is_built(kwargs, error, message):
    with pytest.raises(error, match=message):
        backbone(**kwargs)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="DynamicSwin: expected images of shape"):
        backbone()(torch.randn(3, 64, 64))


@pytest.mark.parametrize("block", [0, 1], ids=["windows", "shifted"])
def test_column_attention_is_that_of_the_stock_block(block):
    sparsity = dict(places=[(2, block)], keep_ratio=[0.5], scorer=dict(type="AttentionScorer", kind="column"))
    model = DynamicSwin(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), sparsity=sparsity).eval()
    seen = {}
    model.router.decisions[f"2_{block}"].scorer.register_forward_hook(
        lambda scorer, args, scores: seen.update(attention=args[1].attention)
    )
    attn = model.stages[2].blocks[block].attn
    torch.nn.init.normal_(attn.w_msa.relative_position_bias_table)
    attn.w_msa.softmax.register_forward_hook(lambda layer, args, weights: seen.update(weights=weights))
    with torch.no_grad():
        model(torch.randn(2, 3, 224, 448))  # 14 x 28 locations: whole windows
        mass = seen["attention"].column_mass(None)
    windows = seen["weights"].mean(dim=1).sum(dim=1).view(2, 2, 4, 7, 7)
    expected = windows.transpose(2, 3).reshape(2, 14, 28)
    expected = torch.roll(expected, (attn.shift_size, attn.shift_size), (1, 2)).flatten(1)
    torch.testing.assert_close(mass, expected, rtol=0, atol=1e-5)


def test_windows_at_the_border_get_no_more_than_others():
    """Of 15 x 30 cells the last row and the last two columns lie in windows of few."""
    sparsity = dict(places=[(2, 0)], keep_ratio=[0.3], scorer=dict(type="AttentionScorer", kind="column"))
    model = DynamicSwin(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), sparsity=sparsity).eval()
    with torch.no_grad(), record_selections(model) as taken:
        model(torch.randn(4, 3, 240, 480))
    kept = taken[0][1].keep_mask.view(4, 15, 30).float()
    border = torch.zeros(15, 30, dtype=torch.bool)
    border[14:], border[:, 28:] = True, True
    assert 0.1 < kept[:, border].mean() < 0.5


def test_skip_windows_is_true_or_false():
    with pytest.raises(TypeError, match="`skip_windows` to be True or False, but got 'yes'"):
        backbone(sparsity=dict(skip_windows="yes"))


@pytest.mark.parametrize("size", [(224, 224), (224, 320), (448, 448)], ids=str)
def test_mmpretrains_maps_of_one_window_are_not_shifted(size):
    arch = dict(embed_dims=16, depths=[1, 1, 2, 2], num_heads=[1, 2, 2, 4])
    stock = PretrainSwin(arch=arch, img_size=224, pad_small_map=False)
    for name, p in stock.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(p)
    model = DynamicSwin(**arch, out_indices=(3,), shift_one_window=False)
    model.load_state_dict(stock.state_dict())
    stock.eval(), model.eval()
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0], stock(x)[0], rtol=0, atol=1e-5)
