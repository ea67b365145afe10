from mmsparse.env import has
from mmsparse.models.absent import present_or_absent, stand_in

from .dynamic_beit import DynamicBEiT
from .dynamic_convnext import DynamicConvNeXt
from .dynamic_vit import DynamicViT
from .dynamic_vit_eva02 import DynamicViTEVA02
from .dynamic_vit_sam import DynamicViTSAM

if has("mmseg") or has("mmdet"):
    from .dynamic_swin import DynamicSwin
else:
    DynamicSwin = stand_in("DynamicSwin", "mmseg", "mmdet")
_FOUND = present_or_absent(
    __name__,
    conv_backbones=(
        "mmdet",
        ("CSPDarknet", "CSPNeXt", "ConvResNet", "Darknet", "HRNet", "Res2Net"),
    ),
    conv_backbones_mmseg=(
        "mmseg",
        ("BiSeNetV1", "BiSeNetV2", "ConvResNetV1c", "ICNet", "STDCContextPathNet", "SegHRNet", "UNet"),
    ),
    dynamic_resnet=("mmdet", ("RegNet", "ResNeXt", "ResNet", "ResNetV1d")),
    dynamic_resnet_v1c=("mmseg", ("ResNetV1c",)),
)
globals().update(_FOUND)
__all__ = [
    "DynamicBEiT",
    "DynamicConvNeXt",
    "DynamicSwin",
    "DynamicViT",
    "DynamicViTEVA02",
    "DynamicViTSAM",
    *_FOUND,
]
