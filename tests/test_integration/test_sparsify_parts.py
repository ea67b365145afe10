"""`mmsparse.sparsify`: which class a part of a config becomes, and where parts stand."""

import pytest
import torch
from dense_configs import stock
from mmengine.registry import MODELS

import mmsparse
from mmsparse.models.backbones.block_router import BlockRouter
from mmsparse.models.convs import ConvRouter
from mmsparse.rewriting import families
from mmsparse.sparsity import router_keys

GN = dict(type="GN", num_groups=2)
DILATED = dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True, multi_grid=(1, 2, 4))


@pytest.mark.parametrize("scope, kind, becomes, more", [
    ("mmdet", "ResNet", "DynamicResNet", dict(frozen_stages=1, style="caffe")),
    ("mmdet", "ResNeXt", "DynamicResNeXt", dict(groups=4, base_width=8)),
    ("mmdet", "ResNetV1d", "DynamicResNetV1d", {}),
    ("mmseg", "ResNetV1c", "DynamicResNetV1c", DILATED),
    ("mmseg", "ResNetV1d", "DynamicResNetV1c", DILATED),
    ("mmseg", "ResNet", "DynamicResNetV1c", DILATED),
    ("mmpretrain", "ResNet", "DynamicResNet", {}),
    ("mmdet", "ResNet", "DynamicConvResNet", dict(depth=18, frozen_stages=1)),
    ("mmdet", "ResNet", "DynamicResNet", dict(conv_cfg=dict(type="Conv2d"))),
    ("mmdet", "ResNet", "DynamicConvResNet", dict(norm_cfg=GN)),
    ("mmdet", "ResNet", "DynamicConvResNet", dict(conv_cfg=dict(type="ConvWS"), norm_cfg=GN)),
    ("mmseg", "ResNetV1d", "DynamicConvResNetV1c", dict(depth=34, **DILATED)),
    ("mmseg", "ResNet", "DynamicConvResNetV1c", dict(depth=18)),
    ("mmpretrain", "ResNet", "DynamicConvResNet", dict(depth=34)),
])  # fmt: skip
def test_resnets_of_all_libraries(scope, kind, becomes, more):
    """The arguments of each mean the same: everything kept is the stock network, in training with its norms, too."""
    backbone = {**dict(type=kind, depth=50, base_channels=8), **more}
    cfg = mmsparse.sparsify(dict(default_scope=scope, model=dict(type="Net", backbone=backbone)), 0.5)
    assert cfg.model.backbone.type == f"mmsparse.{becomes}"
    dense, dynamic = MODELS.build({**backbone, "type": f"{scope}.{kind}"}), MODELS.build(cfg.model.backbone)
    assert not dynamic.load_state_dict(dense.state_dict(), strict=False).unexpected_keys
    mmsparse.set_keep_ratio(dynamic, 1.0)
    dense, dynamic, picture = dense.double(), dynamic.double(), torch.randn(2, 3, 72, 104).double()
    for training in (True, False):
        dense.train(training), dynamic.train(training)
        for ours, theirs in zip(dynamic(picture), dense(picture), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    mmsparse.pop_aux(dynamic)


@pytest.mark.parametrize("arguments", [
    dict(train=False), dict(sparsity=dict(places=[(1, 1)])), dict(sparsity=dict(share_scorer=True)),
])  # fmt: skip
def test_what_is_said_of_blocks_routes_blocks(arguments):
    backbone = dict(type="ResNet", depth=18, base_channels=8)
    cfg = mmsparse.sparsify(dict(default_scope="mmdet", model=dict(type="Net", backbone=backbone)), 0.5, **arguments)
    assert cfg.model.backbone.type == "mmsparse.DynamicResNet"
    assert router_keys(BlockRouter) - router_keys(ConvRouter) == families.OF_BLOCKS


def test_one_of_several_heads_stays_dense_and_the_others_do_not():
    """The first of them has 1x1 convolutions alone."""
    dense = stock("mmseg::ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512.py")
    dynamic = mmsparse.sparsify(dense, dict(head=0.5), head=True)
    assert dynamic.model.decode_head[0] == dense.model.decode_head[0]
    routed = dict(type="mmsparse.DynamicOCRHead", sparsity=dict(keep_ratio=0.5))
    assert dynamic.model.decode_head[1] == {**dense.model.decode_head[1], **routed}


@pytest.mark.parametrize("name, place, kind", [
    ("mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
     "roi_head.bbox_head", "ConvFCBBoxHead"),
    ("mmdet::htc/htc_r50_fpn_1x_coco.py", "roi_head.mask_head", "HTCMaskHead"),
    ("mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py", "roi_head.grid_head", "GridHead"),
    ("mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py", "track_head.pixel_decoder",
     "MSDeformAttnPixelDecoder"),
    ("mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py", "decode_head.kernel_generate_head",
     "UPerHead"),
    ("mmdet::solo/decoupled-solo_r50_fpn_1x_coco.py", "mask_head", "DecoupledSOLOHead"),
])  # fmt: skip
def test_where_heads_stand(name, place, kind):
    part = mmsparse.sparsify(stock(name), dict(head=0.5), head=True).model
    for key in place.split("."):
        part = part[key]
    assert {head.type for head in (part if isinstance(part, list) else [part])} == {f"mmsparse.Dynamic{kind}"}


def test_a_resnet_of_mmpretrain_with_what_ours_lacks():
    backbone = dict(type="ResNet", depth=50, deep_stem=True)
    with pytest.raises(ValueError, match="model.backbone is mmpretrain.ResNet with `deep_stem`, which mmsparse"):
        mmsparse.sparsify(dict(default_scope="mmpretrain", model=dict(type="Net", backbone=backbone)), 0.5)
