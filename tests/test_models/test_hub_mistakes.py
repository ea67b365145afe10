"""Files of timm and of the hub that have no counterpart, whole or in part, and weights that cannot go there."""

import hub
import pytest
import torch
from hub import in_the_hub, transformers  # noqa: F401

from mmsparse.models.convert import check_fit, convert_dense, convert_outward


def without(state, *parts):
    """Half a file."""
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


def a_file_of(kind):
    """State dicts of networks that have no counterpart, or of a part of one."""
    tiny = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56)
    swin_v2 = dict(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, image_size=64)
    make = {
        "dinov3 vit": lambda: transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**tiny, num_register_tokens=4)),
        "dinov3 vit of timm": lambda: timm_model("vit_small_patch16_dinov3"),
        "swin v2": lambda: transformers.Swinv2Model(transformers.Swinv2Config(**swin_v2)),
        "swin v2 of timm": lambda: timm_model("swinv2_tiny_window8_256"),
        "distilled": lambda: transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**tiny)),
        "distilled of timm": lambda: timm_model("deit_tiny_distilled_patch16_224"),
        "swiglu of timm": lambda: timm_model("vit_giant_patch14_dinov2", embed_dim=64, num_heads=1, mlp_ratio=6),
        "resnet": lambda: transformers.ResNetModel(transformers.ResNetConfig(hidden_sizes=[4, 4, 4, 4])),
        "beit": lambda: transformers.BeitModel(transformers.BeitConfig(**tiny)),
    }
    return make[kind]().state_dict()


def timm_model(name, **arguments):
    return hub.timm.create_model(name, depth=1, **arguments) if "vit" in name else hub.timm.create_model(name)


@pytest.mark.parametrize(
    "state, message",
    [
        (lambda: a_file_of("dinov3 vit"), "DINOv3 ViT, with rotary positions and register tokens"),
        (lambda: a_file_of("dinov3 vit of timm"), "DINOv3 ViT, with rotary positions and register tokens"),
        (lambda: a_file_of("swin v2"), "Swin Transformer V2"),
        (lambda: a_file_of("swin v2 of timm"), "Swin Transformer V2"),
        (lambda: a_file_of("distilled"), "distilled DeiT"),
        (lambda: a_file_of("distilled of timm"), "distilled DeiT"),
        (lambda: a_file_of("swiglu of timm"), "SwiGLU"),
        (lambda: a_file_of("resnet"), "unknown layout"),
        (lambda: a_file_of("beit"), "there is no layers.0.attention.k_proj.bias|there is no .*attention.key.bias"),
        (lambda: without(hub.convnext().state_dict(), "stages.2.layers.0.pwconv2.bias"), "1 of them are missing"),
        (lambda: without(hub.convnext().state_dict(), "stages.1"), "nothing in the file becomes stages.1.0.norm"),
        (lambda: without(hub.swin().state_dict(), "2.blocks.1.attention.k_proj", "2.blocks.1.attention.self.key"),
         r"there is no encoder.layers.2.blocks.1.attention\..*, which .*qkv.weight is made of"),
        (lambda: without(hub.vit().state_dict(), "position_emb"), "nothing in the file becomes pos_embed"),
        (lambda: without(hub.upernet("convnext").state_dict(), "hidden_states_norms.stage2"), "norms for 3 maps"),
        (lambda: hub.upernet("dinov2").state_dict(), "norms for 0 maps"),
        (lambda: without(hub.upernet("swin").state_dict(), "lateral_convs.1."), "nothing in the file becomes"),
        (lambda: without(hub.upernet("convnext").state_dict(), "psp_modules.3"), "4 pooled maps, but got 3"),
        (lambda: without(hub.upernet("convnext").state_dict(), "auxiliary_head.convs.0.batch"), "are missing"),
        (lambda: {**hub.dinov2().state_dict(), "head.weight": torch.ones(1)}, "1 of them are unexpected"),
    ],
)  # fmt: skip
def test_files_of_other_networks_and_halves_are_refused(state, message):
    with pytest.raises(ValueError, match=message) as refused:
        check_fit(convert_dense(state()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "state, message",
    [
        (lambda: hub.convnext().state_dict(), "in the OpenMMLab layout, but got keys such as"),
        (lambda: without(convert_dense(hub.swin().state_dict()).weights, "stages.1.blocks.0"), "incomplete weights"),
        (lambda: without(convert_dense(hub.vit().state_dict()).weights, "cls_token"), "such as backbone.cls_token"),
        (lambda: convert_dense(hub.dinov2(use_swiglu_ffn=True).state_dict()).weights, "timm has no network that holds"),
        (lambda: {**convert_dense(hub.vit().state_dict()).weights, "backbone.x": torch.ones(1)}, "1 .* are unexpected"),
    ],
)  # fmt: skip
def test_weights_that_do_not_go_out_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        convert_outward(state(), "timm")
