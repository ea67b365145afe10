"""State dicts as other releases hold them: their names and shapes, random values."""

import math
import re

import torch
from torch import Tensor

State = dict[str, Tensor]


class Weights:
    """Collects named random tensors; ``light`` ones share one number and take no memory."""

    def __init__(self, light: bool) -> None:
        self.light = light
        self.state: State = {}

    def add(self, name: str, *shape: int) -> None:
        if self.light:
            self.state[name] = torch.rand(()).expand(shape)
        elif len(shape) > 1:
            self.state[name] = torch.randn(shape) * math.prod(shape[1:]) ** -0.5
        else:
            self.state[name] = torch.rand(shape) * 0.6 + (0.3 if name.endswith(("weight", "gamma")) else -0.3)

    def layer(self, name: str, *shape: int, bias: bool = True) -> None:
        self.add(f"{name}.weight", *shape)
        if bias:
            self.add(f"{name}.bias", shape[0])

    def predictor(self, name: str, c: int, convolution: bool = False) -> None:
        one = (1, 1) if convolution else ()
        self.layer(f"{name}.in_conv.0", c)
        self.layer(f"{name}.in_conv.1", c, c, *one)
        for index, (before, after) in enumerate(((c, c // 2), (c // 2, c // 4), (c // 4, 2))):
            self.layer(f"{name}.out_conv.{2 * index}", after, before, *one)


def convnext(depths, channels, first: int | None = None, v2: bool = False, classes: int = 10, light=False) -> State:
    """The original release; with ``first`` the DynamicViT one, whose blocks have fast paths from there on."""
    w = Weights(light)
    for i, c in enumerate(channels):
        if i == 0:
            w.layer("downsample_layers.0.0", c, 3, 4, 4)
            w.layer("downsample_layers.0.1", c)
        else:
            w.layer(f"downsample_layers.{i}.0", channels[i - 1])
            w.layer(f"downsample_layers.{i}.1", c, channels[i - 1], 2, 2)
        for j in range(depths[i]):
            block = f"stages.{i}.{j}"
            w.layer(f"{block}.dwconv", c, 1, 7, 7)
            w.layer(f"{block}.norm", c)
            w.layer(f"{block}.pwconv1", 4 * c, c)
            w.layer(f"{block}.pwconv2", c, 4 * c)
            if v2:
                w.add(f"{block}.grn.gamma", 1, 1, 1, 4 * c)
                w.add(f"{block}.grn.beta", 1, 1, 1, 4 * c)
            else:
                w.add(f"{block}.gamma", c)
            if first is not None and i == 2 and j >= first:
                w.add(f"{block}.fast_path_gamma", c)
                w.layer(f"{block}.fast_path.0", c)
                w.layer(f"{block}.fast_path.1", c, c)
    w.layer("norm", channels[-1])
    w.layer("head", classes, channels[-1])
    for k in range(0 if first is None else 3):
        w.predictor(f"score_predictor.{k}", channels[2], convolution=True)
    return w.state


def swin(dims, depths, heads, window: int = 7, first: int | None = None, classes: int = 10, light=False) -> State:
    w = Weights(light)
    w.layer("patch_embed.proj", dims, 3, 4, 4)
    w.layer("patch_embed.norm", dims)
    for i, depth in enumerate(depths):
        c = dims * 2**i
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if j % 2:
                w.state[f"{block}.attn_mask"] = torch.zeros(4, window**2, window**2)
            w.layer(f"{block}.norm1", c)
            w.add(f"{block}.attn.relative_position_bias_table", (2 * window - 1) ** 2, heads[i])
            w.state[f"{block}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            w.layer(f"{block}.attn.qkv", 3 * c, c)
            w.layer(f"{block}.attn.proj", c, c)
            w.layer(f"{block}.norm2", c)
            w.layer(f"{block}.mlp.fc1", 4 * c, c)
            w.layer(f"{block}.mlp.fc2", c, 4 * c)
            if first is not None and i == 2 and j >= first:
                w.layer(f"{block}.fastmlp.fc1.0", c)
                w.layer(f"{block}.fastmlp.fc1.1", c, c)
        if i + 1 < len(depths):
            w.layer(f"layers.{i}.downsample.reduction", 2 * c, 4 * c, bias=False)
            w.layer(f"layers.{i}.downsample.norm", 4 * c)
        for k in range(3 if first is not None and i == 2 else 0):
            w.predictor(f"layers.2.score_predictor.{k}", c)
    w.layer("norm", c)
    w.layer("head", classes, c)
    return w.state


def vit(dims, depth=12, predictors: int = 0, size=224, patch=16, classes: int = 10, light=False) -> State:
    w = Weights(light)
    w.add("cls_token", 1, 1, dims)
    w.add("pos_embed", 1, (size // patch) ** 2 + 1, dims)
    w.layer("patch_embed.proj", dims, 3, patch, patch)
    for j in range(depth):
        w.layer(f"blocks.{j}.norm1", dims)
        w.layer(f"blocks.{j}.attn.qkv", 3 * dims, dims)
        w.layer(f"blocks.{j}.attn.proj", dims, dims)
        w.layer(f"blocks.{j}.norm2", dims)
        w.layer(f"blocks.{j}.mlp.fc1", 4 * dims, dims)
        w.layer(f"blocks.{j}.mlp.fc2", dims, 4 * dims)
    w.layer("norm", dims)
    w.layer("head", classes, dims)
    for k in range(predictors):
        w.predictor(f"score_predictor.{k}", dims)
    return w.state


def timm_convnext(state: State) -> State:
    """What timm calls the weights of the original ConvNeXt."""
    result = {}
    for key, value in state.items():
        key = re.sub(r"^downsample_layers\.0\.", "stem.", key)
        key = re.sub(r"^downsample_layers\.(\d)\.", r"stages.\1.downsample.", key)
        key = re.sub(r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2.", key)
        key = key.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")
        key = key.replace("grn.gamma", "mlp.grn.weight").replace("grn.beta", "mlp.grn.bias")
        key = re.sub(r"^norm\.", "head.norm.", re.sub(r"^head\.", "head.fc.", key))
        result[key] = value.flatten() if ".grn." in key else value
    return result


def timm_swin(state: State) -> State:
    """What timm calls the weights of the original Swin since its version 0.9."""
    result = {}
    for key, value in state.items():
        if not key.endswith(("attn_mask", "relative_position_index")):
            key = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)
            result[re.sub(r"^head\.", "head.fc.", key)] = value
    return result


def mmseg_vit(state: State) -> State:
    """What mmseg's VisionTransformer calls the weights of DeiT."""
    names = {"blocks.": "layers.", "norm1": "ln1", "norm2": "ln2", "attn.proj.": "attn.attn.out_proj.",
             "attn.qkv.": "attn.attn.in_proj_", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1",
             "patch_embed.proj.": "patch_embed.projection."}  # fmt: skip
    result = {}
    for key, value in state.items():
        for old, new in names.items():
            key = key.replace(old, new)
        if not key.startswith("head."):
            result[re.sub(r"^norm\.", "ln1.", key)] = value
    return result
