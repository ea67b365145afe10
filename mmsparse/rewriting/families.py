"""The stock classes that have a routed one, by where they stand in a config, and how their arguments become its."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import ConfigDict

from mmsparse.stock import DETECTORS, HEADS, NECKS, PIXEL_DECODERS


@dataclass(frozen=True)
class Part:
    """A backbone, neck or head of a config: where it is, what it is, and the model that holds it."""

    path: str
    kind: str  # the scoped class name
    cfg: ConfigDict
    parent: ConfigDict


def _from_mmseg_vit(backbone: Part) -> None:
    """The arguments of mmseg's VisionTransformer -> those of mmpretrain's."""
    given = _arguments_of_mmseg(backbone)
    for name, (allowed, why) in VIT_ONLY_IN_MMSEG.items():
        if given.pop(name, allowed) != allowed:
            raise ValueError(f"sparsify: {backbone.path} is mmseg.VisionTransformer with `{name}`: {why}")
    patch_cfg = dict(bias=given.pop("patch_bias", False))
    if "patch_pad" in given:
        patch_cfg["padding"] = given.pop("patch_pad")
    _to_mmpretrain(backbone.cfg, given, patch_cfg)


def _from_mmseg_beit(backbone: Part) -> None:
    """The arguments of mmseg's BEiT and MAE -> those of mmpretrain's BEiTViT."""
    given, is_mae = _arguments_of_mmseg(backbone), backbone.kind == "mmseg.MAE"
    given["bias"] = is_mae or ("qv_bias" if given.pop("qv_bias", True) else False)
    given["use_abs_pos_emb"] = is_mae
    given["layer_scale_init_value"] = given.pop("init_values", 0.1)
    _to_mmpretrain(backbone.cfg, given, dict(padding=0))


def _arguments_of_mmseg(backbone: Part) -> dict[str, Any]:
    """Those of a transformer of mmseg, taken out of its config; with the weights that its segmenter would give it."""
    cfg = backbone.cfg
    given = {key: cfg.pop(key) for key in list(cfg.keys()) if key != "type"}
    given.pop("norm_eval", None)  # of batch norms, of which a ViT has none
    # a segmenter hands its own `pretrained` down to a backbone that knows the word
    checkpoint = given.pop("pretrained", None) or backbone.parent.get("pretrained")
    if backbone.parent.get("pretrained"):
        backbone.parent.pretrained = None
    if checkpoint:
        given["init_cfg"] = dict(type="Pretrained", checkpoint=checkpoint)
    return given


def _to_mmpretrain(cfg: ConfigDict, given: dict[str, Any], patch_cfg: dict[str, Any]) -> None:
    """What mmseg's transformers have in common -> as mmpretrain spells it."""
    width = given.pop("embed_dims", 768)
    cfg.arch = dict(
        embed_dims=width,
        num_layers=given.pop("num_layers", 12),
        num_heads=given.pop("num_heads", 12),
        feedforward_channels=given.pop("mlp_ratio", 4) * width,
    )
    norm = given.setdefault("norm_cfg", dict(type="LN"))
    indices = given.pop("out_indices", -1)
    cfg.out_indices = list(indices) if isinstance(indices, Sequence) else [indices]
    cfg.out_type = "featmap"
    if given.pop("patch_norm", False):
        patch_cfg["norm_cfg"] = norm
    cfg.patch_cfg = patch_cfg
    cfg.layer_cfgs = {name: given.pop(name) for name in ("attn_drop_rate", "act_cfg", "num_fcs") if name in given}
    given.setdefault("final_norm", False)
    cfg.update(given)


def _from_mmseg_fpn(part: Part) -> None:
    """mmdet's class, which ours extends, means something else by these arguments."""
    part.cfg.pop("extra_convs_on_inputs", None)
    for name, same in (("end_level", -1), ("add_extra_convs", False)):
        if part.cfg.get(name, same) != same:
            raise ValueError(
                f"sparsify: argument `neck`: {part.path} is mmseg.FPN with {name}={part.cfg[name]}, which means "
                "something else to mmsparse.DynamicFPN (mmdet's). Write the neck by hand"
            )


def _of_blocks_or_convs(backbone: Part) -> str | None:
    """Where whole blocks of a ResNet do not pay or cannot be routed, its 3x3 convolutions are; nothing else changes."""
    cfg = backbone.cfg
    norm, conv = ((cfg.get(name) or {}).get("type", "") for name in ("norm_cfg", "conv_cfg"))
    basic = cfg.get("depth") in (18, 34)  # of two 3x3 convolutions
    if OF_BLOCKS & cfg.sparsity.keys() or not (basic or conv == "ConvWS" or (norm and "BN" not in norm)):
        return None
    return CONV_BY_CONV[backbone.kind]


def _from_mmpretrain_resnet(backbone: Part) -> str | None:
    """The arguments of mmpretrain's ResNet -> those of mmdet's, which differ in what they are by default."""
    cfg = backbone.cfg
    for name, same in (("drop_path_rate", 0.0), ("expansion", None), ("deep_stem", False), ("avg_down", False)):
        if cfg.pop(name, same) != same:
            raise ValueError(
                f"sparsify: {backbone.path} is {backbone.kind} with `{name}`, which mmsparse.DynamicResNet (mmdet's "
                "class) does not have or has otherwise"
            )
    for name, default in (("stem_channels", 64), ("out_indices", (3,)), ("norm_eval", False)):
        cfg.setdefault(name, default)
    return _of_blocks_or_convs(backbone)


def _from_mmseg_resnet(backbone: Part) -> str | None:
    """A ResNet or ResNetV1d of mmseg is a ResNetV1c with another stem, or with other shortcuts."""
    if backbone.kind == "mmseg.ResNet":
        backbone.cfg.setdefault("deep_stem", False)
    else:
        backbone.cfg.avg_down = True
    return _of_blocks_or_convs(backbone)


def _keep(part: Part) -> None:
    """The routed class takes the arguments of the stock class as they are."""


# name: (the value that means nothing special, what its absence in mmpretrain's class means)
VIT_ONLY_IN_MMSEG: dict[str, tuple[Any, str]] = {
    "output_cls_token": (False, "its head wants the class token beside each map, and mmsparse.DynamicViT returns maps"),
    "out_origin": (False, "its first output is the patch embedding, which mmsparse.DynamicViT does not return"),
    "qkv_bias": (True, "its output projection has no bias then either, unlike that of mmsparse.DynamicViT"),
    "frozen_exclude": (["all"], "mmsparse.DynamicViT freezes whole layers (`frozen_stages`), not chosen parameters"),
}
# backbones that have a 1x1 convolution where they are not dense, and not what was there
OF_BLOCKS = {"cumulative", "fast_path", "keys", "places", "share_scorer"}  # what routed convolutions do not know
CONV_BY_CONV = {f"{lib}.ResNet": "DynamicConvResNet" for lib in ("mmdet", "mmpretrain")}
CONV_BY_CONV |= {f"mmseg.{name}": "DynamicConvResNetV1c" for name in ("ResNet", "ResNetV1c", "ResNetV1d")}
PLAIN = {"mmdet": ("CSPNeXt", "CSPDarknet", "Darknet", "HRNet", "Res2Net")}
PLAIN["mmseg"] = ("BiSeNetV1", "BiSeNetV2", "ICNet", "STDCContextPathNet", "UNet")
OF_CONVOLUTIONS = {f"{lib}.{name}": f"Dynamic{name}" for lib, names in PLAIN.items() for name in names}
OF_CONVOLUTIONS["mmseg.HRNet"] = "DynamicSegHRNet"
# the routed class, and what makes its arguments of the stock class's; it may name another one that suits them better
Family = tuple[str, Callable[[Part], str | None]]
ROUTED: dict[str, dict[str, Family]] = {
    "backbone": {
        "mmpretrain.ConvNeXt": ("DynamicConvNeXt", _keep),
        "mmdet.SwinTransformer": ("DynamicSwin", _keep),
        "mmseg.SwinTransformer": ("DynamicSwin", _keep),
        "mmdet.ResNet": ("DynamicResNet", _of_blocks_or_convs),
        "mmdet.ResNeXt": ("DynamicResNeXt", _keep),
        "mmdet.ResNetV1d": ("DynamicResNetV1d", _keep),
        "mmdet.RegNet": ("DynamicRegNet", _keep),
        **{kind: (name, _keep) for kind, name in OF_CONVOLUTIONS.items()},
        "mmseg.ResNet": ("DynamicResNetV1c", _from_mmseg_resnet),
        "mmseg.ResNetV1c": ("DynamicResNetV1c", _of_blocks_or_convs),
        "mmseg.ResNetV1d": ("DynamicResNetV1c", _from_mmseg_resnet),
        "mmpretrain.ResNet": ("DynamicResNet", _from_mmpretrain_resnet),
        "mmpretrain.VisionTransformer": ("DynamicViT", _keep),
        "mmseg.VisionTransformer": ("DynamicViT", _from_mmseg_vit),
        "mmpretrain.BEiTViT": ("DynamicBEiT", _keep),
        "mmseg.BEiT": ("DynamicBEiT", _from_mmseg_beit),
        "mmseg.MAE": ("DynamicBEiT", _from_mmseg_beit),
        "mmpretrain.ViTSAM": ("DynamicViTSAM", _keep),
        "mmpretrain.ViTEVA02": ("DynamicViTEVA02", _keep),
    },
    "neck": {
        **{f"{lib}.{name}": (f"Dynamic{name}", _keep) for lib, names in NECKS.items() for name in names},
        "mmseg.FPN": ("DynamicFPN", _from_mmseg_fpn),
    },
    "head": {
        **{f"{lib}.{name}": (f"Dynamic{name}", _keep) for lib, names in HEADS.items() for name in names},
        **{f"mmdet.{name}": (f"Dynamic{name}", _keep) for name in (*DETECTORS, *PIXEL_DECODERS)},
    },
}
REFUSED = {
    "mmpretrain.ResNetV1d": "its stem has other names than that of mmdet's class",
    "mmpretrain.SwinTransformer": (
        "its arguments are not those of mmdet's and mmseg's class, which mmsparse.DynamicSwin takes; its weights fit, "
        "with shift_one_window=False"
    ),
    **{f"mmsparse.{family}": "it is dynamic already" for family, _ in ROUTED["backbone"].values()},
    **{f"mmsparse.{family}": "it is dynamic already" for family in CONV_BY_CONV.values()},
}
