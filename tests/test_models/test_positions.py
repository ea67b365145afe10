"""Positions in plain transformers: what scorers read of them, tables of other sizes, what is refused, memory."""

import copy

import numpy as np
import pytest
import torch
from mmpretrain.models import BEiTViT
from mmpretrain.models.backbones.vit_sam import add_decomposed_rel_pos
from torch.utils._python_dispatch import TorchDispatchMode

from mmsparse.models import DynamicBEiT, DynamicViT, DynamicViTEVA02, DynamicViTSAM
from mmsparse.models.backbones.beit_weights import resized_table
from mmsparse.models.convert.dense import convert_dense

MICRO = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)
SAM_MICRO = dict(**MICRO, global_attn_indexes=[1])


def beit(**more):
    return DynamicBEiT(**{**dict(arch=MICRO, img_size=(96, 64), out_type="featmap"), **more})


def sam(**more):
    return DynamicViTSAM(**{**dict(arch=SAM_MICRO, img_size=96, window_size=3, out_channels=0), **more})


def eva02(**more):
    return DynamicViTEVA02(**{**dict(arch=MICRO, img_size=96, out_type="featmap"), **more})


def lively(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def logits_of(layer, x, size):
    """Of a stock layer's attention, on all tokens: (B, heads, n, n)."""
    attn, h = layer.attn, layer.norm1(x)
    if hasattr(attn, "q_bias"):
        bias = torch.cat([attn.q_bias, torch.zeros(48), attn.v_bias])
        projected = torch.nn.functional.linear(h, attn.qkv.weight, bias)
    else:
        projected = attn.qkv(h)
    query, key, _ = projected.unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    if hasattr(attn, "rope"):
        rope = copy.deepcopy(attn.rope)
        query, key = (torch.cat([part[:, :, :1], rope(part[:, :, 1:], size)], dim=2) for part in (query, key))
    logits = query @ key.transpose(-1, -2) / 4
    if hasattr(attn, "rel_pos_h"):
        flat = add_decomposed_rel_pos(
            logits.flatten(0, 1), query.flatten(0, 1), attn.rel_pos_h, attn.rel_pos_w, size, size
        )
        return flat.view(logits.shape)
    if hasattr(attn, "relative_position_bias_table"):
        logits = logits + attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)
    return logits


@pytest.mark.parametrize("build, extra", [(beit, 1), (eva02, 1), (sam, 0)])
def test_scorers_read_the_attention_of_the_block_with_its_positions(build, extra):
    sparsity = dict(scorer=dict(type="AttentionScorer"), places=[1], keep_ratio=0.5)
    model, seen = lively(build(sparsity=sparsity)), {}
    scorer = model.router.decisions["0_1"].scorer
    scorer.register_forward_hook(lambda scorer, args, _: seen.update(attention=args[1].attention))
    with torch.no_grad():
        model(torch.randn(2, 3, 96, 64))
        attention = seen["attention"]
        logits = logits_of(model.layers[1], attention.x, (6, 4))
        torch.testing.assert_close(attention.logits(slice(None), slice(None)), logits, rtol=0, atol=1e-4)
        column = logits[:, :, extra:, extra:].softmax(-1).mean(1).sum(1)
        torch.testing.assert_close(attention.column_mass(None), column, rtol=0, atol=1e-4)
        if extra:
            row = logits[:, :, 0, 1:].softmax(-1).mean(1)
            torch.testing.assert_close(attention.class_row(None), row, rtol=0, atol=1e-4)
        attention.positions = None
        assert (attention.column_mass(None) - column).abs().max() > 1e-2


class Largest(TorchDispatchMode):
    """The most numbers that a tensor which any operation gives has in memory."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("build", [beit, eva02, sam])
def test_selected_tokens_have_no_table_of_all_tokens(build):
    """Nothing is larger than the logits among the selected tokens of all heads; a map of all pairs would be."""
    more = dict(window_size=0) if build is sam else {}
    sparsity = dict(places=[0], keep_ratio=0.25, scorer=dict(type="FeatureNormScorer"))
    model = lively(build(img_size=128, patch_size=4, sparsity=sparsity, **more))
    with torch.no_grad(), Largest() as largest:
        model(torch.randn(2, 3, 128, 128))
    logits = 2 * 3 * (256 + model.num_extra_tokens) ** 2
    assert 0 < largest.most <= logits < 1024**2


def test_a_table_for_another_map_is_a_spline_at_growing_distances():
    """A cubic surface through the trained places is met exactly; the class token's three values stay."""

    ratio = max(root.real for root in np.roots([*[1.0] * 4, 1 - 8.0]) if abs(root.imag) < 1e-9)  # 1 + q + .. + q^4 = 8
    away = np.cumsum(ratio ** np.arange(5))
    places = torch.from_numpy(np.concatenate([-away[::-1], [0.0], away]))
    wanted = torch.arange(-8.0, 9.0, dtype=torch.float64)

    def values(at):
        down, right = at[:, None], at[None, :]
        return torch.stack([0.1 * down**3 + right, 2.0 - down * right + 0.3 * right**2], dim=-1).flatten(0, 1)

    special = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)
    resized = resized_table(torch.cat([values(places), special]), (9, 9))
    torch.testing.assert_close(resized[:-3], values(wanted), rtol=0, atol=1e-3)
    assert torch.equal(resized[-3:], special)


@pytest.mark.parametrize("shared", [False, True])
def test_weights_of_another_size_load(shared):
    kwargs = dict(arch=MICRO, out_type="featmap")
    small = BEiTViT(**kwargs, img_size=96, use_rel_pos_bias=not shared, use_shared_rel_pos_bias=shared)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = small.state_dict()
    model = DynamicBEiT(**kwargs, img_size=(160, 128))
    result = model.load_state_dict(copy.deepcopy(state), strict=False)
    assert not result.unexpected_keys
    table = state[
        "rel_pos_bias.relative_position_bias_table" if shared else "layers.1.attn.relative_position_bias_table"
    ]
    own = model.layers[1].attn
    assert torch.equal(own.relative_position_bias_table, resized_table(table, (10, 8)))
    assert own.relative_position_index.max() == len(own.relative_position_bias_table) - 1


def test_registers_have_depth_zero_no_positions_and_freeze():
    kwargs = dict(arch=MICRO, out_type="featmap", num_registers=4)
    model = DynamicViT(img_size=96, **kwargs, frozen_stages=1)
    assert model.register_tokens.shape == (1, 4, 48) and model.register_tokens.std() > 0.01
    assert not model.register_tokens.requires_grad and model.layers[2].ln1.weight.requires_grad
    assert model.get_layer_depth("backbone.register_tokens", "backbone.") == (0, 5)
    larger = DynamicViT(img_size=160, **kwargs)
    larger.load_state_dict(model.state_dict())
    assert larger.pos_embed.shape == (1, 101, 48) and larger.num_extra_tokens == 5
    assert torch.equal(larger.register_tokens, model.register_tokens)


@pytest.mark.parametrize(
    "build, arguments, message",
    [
        (beit, dict(with_cls_token=False), "DynamicBEiT: expected argument `with_cls_token` to be True with relative"),
        (beit, dict(layer_cfgs=dict(attn_cfg=dict(qk_scale=2.0))), "`layer_cfgs` has qk_scale=2.0, .* 0.25, one over"),
        (
            beit,
            dict(arch="huge"),
            r"DynamicBEiT: expected argument `arch` to be one of \['s', 'small', .* but got 'huge'",
        ),
        (sam, dict(arch=MICRO), r"DynamicViTSAM: a dict `arch` needs the keys .*'global_attn_indexes'"),
        (sam, dict(use_abs_pos=False), "`use_abs_pos` to be True, .* but got False"),
        (sam, dict(sparsity=dict(explore=0.5)), "with windows, .* `explore` can only be 1.0, but got 0.5"),
        (eva02, dict(arch=dict(embed_dims=48)), r"DynamicViTEVA02: a dict `arch` needs the keys"),
        (DynamicViT, dict(num_registers=-1), "`num_registers` to be a whole number >= 0, but got -1"),
        (DynamicViT, dict(num_registers=2, window_size=7), "`num_registers` to be 0 with `window_size`.* but got 2"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_pictures_beyond_the_tables_are_refused():
    model = beit(sparsity={})
    model(torch.randn(1, 3, 70, 64))
    with pytest.raises(ValueError, match="maps of up to 6x4 tokens .*, but a picture has 6x5. Build it with a larger"):
        model(torch.randn(1, 3, 96, 70))


def test_dinov2_with_registers_converts_from_timms_names():
    """timm keeps the class token's position in the token itself."""
    model = DynamicViT(arch=MICRO, img_size=96, num_registers=4, out_type="featmap", layer_scale_init_value=1.0)
    state = lively(model).state_dict()
    state["pos_embed"][:, :1] = 0.0
    names = [("ffn.layers.0.0", "mlp.fc1"), ("ffn.layers.1", "mlp.fc2"), ("layers.", "blocks."), (".ln1.", ".norm1.")]
    names += [(".ln2.", ".norm2."), ("attn.gamma1.weight", "ls1.gamma"), ("ffn.gamma2.weight", "ls2.gamma")]
    timm = {}
    for key, value in state.items():
        name = "norm." + key.removeprefix("ln1.") if key.startswith("ln1.") else key
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        timm[name.replace("patch_embed.projection", "patch_embed.proj").replace("register_tokens", "reg_token")] = value
    timm["pos_embed"] = timm["pos_embed"][:, 1:]
    converted = convert_dense(timm)
    assert converted.backbone["num_registers"] == 4 and converted.backbone["img_size"] == 96
    assert converted.weights.keys() == {f"backbone.{key}" for key in state}
    for key, value in state.items():
        assert torch.equal(converted.weights[f"backbone.{key}"], value), key
