"""Dense configs of the installed libraries, and hand-written ones, for the tests of what makes them dynamic."""

from mmengine.config import Config

from mmsparse import compat

compat.prepare()


STOCK = {
    "swin-det": "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "convnext-det": "mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "swin-seg": "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
}


def stock(path):
    return Config.fromstring(f"_base_ = {path!r}", ".py")


def flat(tree, prefix=""):
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}").items()}
    return {prefix[1:]: tree}


def of(backbone, scope="mmdet", **more):
    return dict(default_scope=scope, model=dict(type="Model", backbone=backbone, **more))


SWIN = of(dict(type="SwinTransformer"))
