"""The layouts of the Hugging Face hub: its files', and the names that transformers 5 has in memory for some of them."""

from typing import Any

from .layouts import Layout, Rule, rules
from .releases import FLAT, LINEAR, MERGED, NUM_HEADS, REGISTERS

EPS = (
    "the eps of norms is no weight but in config.json (layer_norm_eps): 1e-12, as printed, where that does not say "
    "otherwise; for another one change norm_cfg"
)
LAST_EPS = "the norm before the head has the layer_norm_eps of config.json, 1e-12 by default; here it has 1e-6, as all"
OWN_CONFIG = "config.json is yours to write"
OWN_EPS = f"{OWN_CONFIG}; its layer_norm_eps must be the eps of your norms (mmpretrain's default: 1e-6)"
OWN_LAST_EPS = f"{OWN_CONFIG}; with the layer_norm_eps 1e-6, of the norm before the head, it computes the same"


def _newer(table: tuple[Rule, ...], *names: tuple[str, str]) -> tuple[Rule, ...]:
    """The same weights under the names that transformers has in memory since version 5; its files keep the old ones."""

    def renamed(theirs: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not isinstance(theirs, str):
            return tuple(map(renamed, theirs))
        for old, new in names:
            theirs = theirs.replace(old, new)
        return theirs

    new = tuple(rule._replace(theirs=renamed(rule.theirs)) for rule in table)
    return (*table, *(rule for rule in new if rule not in table))


CONVNEXT_BODY = rules(
    ("embeddings.patch_embeddings.{p}", "downsample_layers.0.0.{p}"),
    ("embeddings.layernorm.{p}", "downsample_layers.0.1.{p}"),
    ("encoder.stages.{i}.downsampling_layer.{j}.{p}", "downsample_layers.{i}.{j}.{p}"),
    ("encoder.stages.{i}.layers.{j}.dwconv.{p}", "stages.{i}.{j}.depthwise_conv.{p}"),
    ("encoder.stages.{i}.layers.{j}.layernorm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("encoder.stages.{i}.layers.{j}.pwconv1.weight", "stages.{i}.{j}.pointwise_conv1.weight", LINEAR),
    ("encoder.stages.{i}.layers.{j}.pwconv1.bias", "stages.{i}.{j}.pointwise_conv1.bias"),
    ("encoder.stages.{i}.layers.{j}.pwconv2.weight", "stages.{i}.{j}.pointwise_conv2.weight", LINEAR),
    ("encoder.stages.{i}.layers.{j}.pwconv2.bias", "stages.{i}.{j}.pointwise_conv2.bias"),
)
V1 = rules(("encoder.stages.{i}.layers.{j}.layer_scale_parameter", "stages.{i}.{j}.gamma"))
V2 = rules(
    ("encoder.stages.{i}.layers.{j}.grn.weight", "stages.{i}.{j}.grn.gamma", FLAT),
    ("encoder.stages.{i}.layers.{j}.grn.bias", "stages.{i}.{j}.grn.beta", FLAT),
)
DINOV3_CONVNEXT = rules(
    ("stages.{i}.downsample_layers.{j}.{p}", "downsample_layers.{i}.{j}.{p}"),
    ("stages.{i}.layers.{j}.layer_norm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("stages.{i}.layers.{j}.{n}", "stages.{i}.{j}.{n}"),
    ("layer_norm.{p}", "norm3.{p}"),
)
SWIN = _newer(
    rules(
        ("embeddings.patch_embeddings.projection.{p}", "patch_embed.projection.{p}"),
        ("embeddings.norm.{p}", "patch_embed.norm.{p}"),
        ("encoder.layers.{i}.blocks.{j}.layernorm_before.{p}", "stages.{i}.blocks.{j}.norm1.{p}"),
        (
            tuple(f"encoder.layers.{{i}}.blocks.{{j}}.attention.self.{x}.{{p}}" for x in ("query", "key", "value")),
            "stages.{i}.blocks.{j}.attn.w_msa.qkv.{p}",
        ),
        (
            "encoder.layers.{i}.blocks.{j}.attention.self.relative_position_bias_table",
            "stages.{i}.blocks.{j}.attn.w_msa.relative_position_bias_table",
        ),
        ("encoder.layers.{i}.blocks.{j}.attention.output.dense.{p}", "stages.{i}.blocks.{j}.attn.w_msa.proj.{p}"),
        ("encoder.layers.{i}.blocks.{j}.layernorm_after.{p}", "stages.{i}.blocks.{j}.norm2.{p}"),
        ("encoder.layers.{i}.blocks.{j}.intermediate.dense.{p}", "stages.{i}.blocks.{j}.ffn.layers.0.0.{p}"),
        ("encoder.layers.{i}.blocks.{j}.output.dense.{p}", "stages.{i}.blocks.{j}.ffn.layers.1.{p}"),
        ("encoder.layers.{i}.downsample.{n}", "stages.{i}.downsample.{n}", MERGED),
    ),
    ("self.query", "q_proj"),
    ("self.key", "k_proj"),
    ("self.value", "v_proj"),
    ("self.relative", "relative_position_bias.relative"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
EMBEDDINGS = rules(
    ("embeddings.register_tokens", REGISTERS),
    ("embeddings.cls_token", "cls_token"),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.patch_embeddings.projection.{p}", "patch_embed.projection.{p}"),
)
ATTENTION = rules(
    (
        tuple(f"encoder.layer.{{i}}.attention.attention.{x}.{{p}}" for x in ("query", "key", "value")),
        "layers.{i}.attn.qkv.{p}",
    ),
    ("encoder.layer.{i}.attention.output.dense.{p}", "layers.{i}.attn.proj.{p}"),
)
NEWER_ATTENTION = (
    ("attention.query", "q_proj"),
    ("attention.key", "k_proj"),
    ("attention.value", "v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)
VIT = _newer(
    rules(
        *EMBEDDINGS,
        ("encoder.layer.{i}.layernorm_before.{p}", "layers.{i}.ln1.{p}"),
        *ATTENTION,
        ("encoder.layer.{i}.layernorm_after.{p}", "layers.{i}.ln2.{p}"),
        ("encoder.layer.{i}.intermediate.dense.{p}", "layers.{i}.ffn.layers.0.0.{p}"),
        ("encoder.layer.{i}.output.dense.{p}", "layers.{i}.ffn.layers.1.{p}"),
        ("layernorm.{p}", "ln1.{p}"),
        ("classifier.{p}", "head.layers.head.{p}"),
    ),
    ("encoder.layer.", "layers."),
    *NEWER_ATTENTION,
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
DINOV2 = _newer(
    rules(
        *EMBEDDINGS,
        ("encoder.layer.{i}.norm1.{p}", "layers.{i}.ln1.{p}"),
        *ATTENTION,
        ("encoder.layer.{i}.layer_scale1.lambda1", "layers.{i}.attn.gamma1.weight"),
        ("encoder.layer.{i}.norm2.{p}", "layers.{i}.ln2.{p}"),
        ("encoder.layer.{i}.mlp.fc1.{p}", "layers.{i}.ffn.layers.0.0.{p}"),
        ("encoder.layer.{i}.mlp.fc2.{p}", "layers.{i}.ffn.layers.1.{p}"),
        ("encoder.layer.{i}.mlp.weights_in.{p}", "layers.{i}.ffn.w12.{p}"),
        ("encoder.layer.{i}.mlp.weights_out.{p}", "layers.{i}.ffn.w3.{p}"),
        (
            ("encoder.layer.{i}.mlp.gate_proj.{p}", "encoder.layer.{i}.mlp.up_proj.{p}"),
            "layers.{i}.ffn.w12.{p}",
        ),
        ("encoder.layer.{i}.mlp.down_proj.{p}", "layers.{i}.ffn.w3.{p}"),
        ("encoder.layer.{i}.layer_scale2.lambda1", "layers.{i}.ffn.gamma2.weight"),
        ("layernorm.{p}", "ln1.{p}"),
    ),
    *NEWER_ATTENTION,
)
WHOLE = rules(("layernorm.{p}", "norm3.{p}"), ("classifier.{p}", "head.fc.{p}"))
OF_MAPS = rules(("hidden_states_norms.stage{i+1}.{p}", "norm{i}.{p}"))  # the class Backbone of a family
MASK = r"embeddings\.mask_token"


def _layout(
    name: str, family: str, marker: str, table: tuple[Rule, ...], prefix: str, unused: str = MASK, **more: Any
) -> Layout:
    return Layout(f"Hugging Face {name}", family, marker, table, release="hf", prefix=prefix, unused=unused, **more)


CONVNEXT_MARKER = r"encoder\.stages\.\d+\.layers\.\d+\.dwconv\."
SWIN_MARKER = r"encoder\.layers\.\d+\.blocks\.\d+\.attention\."
OF_HEAD = dict(notes=(LAST_EPS,), writing=(OWN_LAST_EPS,))
OF_NONE = dict(writing=(OWN_CONFIG,))
LAYOUTS = (
    _layout("ConvNeXt", "convnext", CONVNEXT_MARKER, CONVNEXT_BODY + V1 + WHOLE, "convnext.", **OF_HEAD),
    _layout("ConvNeXt V2", "convnext", CONVNEXT_MARKER, CONVNEXT_BODY + V2 + WHOLE, "convnextv2.", **OF_HEAD),
    _layout("ConvNeXt backbone", "convnext", CONVNEXT_MARKER, CONVNEXT_BODY + V1 + OF_MAPS, "", **OF_NONE),
    _layout("ConvNeXt V2 backbone", "convnext", CONVNEXT_MARKER, CONVNEXT_BODY + V2 + OF_MAPS, "", **OF_NONE),
    _layout("Swin", "swin", SWIN_MARKER, SWIN + WHOLE, "swin.", **OF_NONE),
    # since transformers 5 this class has a norm besides that it does not use
    _layout("Swin backbone", "swin", SWIN_MARKER, SWIN + OF_MAPS, "swin.", unused=rf"{MASK}|layernorm\.", **OF_NONE),
    _layout(
        "ViT",
        "vit",
        r"(encoder\.layer|layers)\.\d+\.layernorm_before\.",
        VIT,
        "vit.",
        unused=rf"{MASK}|pooler\.",
        config=dict(norm_cfg=dict(type="LN", eps=1e-12)),
        notes=(EPS, NUM_HEADS),
        writing=(OWN_EPS,),
    ),
    # its classifier also reads the mean of the patches, for which ours has no place
    _layout(
        "DINOv2",
        "vit",
        r"encoder\.layer\.\d+\.layer_scale1\.",
        DINOV2,
        "dinov2.",
        unused=rf"{MASK}|classifier\.",
        notes=(NUM_HEADS,),
        writing=(OWN_EPS,),
    ),
    Layout(
        "Hugging Face DINOv3 ConvNeXt",
        "convnext",
        r"stages\.\d+\.layers\.\d+\.depthwise_conv\.",
        DINOV3_CONVNEXT,
        prefix="model.",
    ),
)
