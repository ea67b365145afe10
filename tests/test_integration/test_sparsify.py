"""`mmsparse.sparsify`: a stock dense config in, a dynamic one out."""

import copy

import pytest
import torch
from dense_configs import STOCK, SWIN, flat, of, stock
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from scenes import CLASSES
from test_stock_configs import on_scenes

import mmsparse

CLASS = {"swin-det": "DynamicSwin", "convnext-det": "DynamicConvNeXt", "swin-seg": "DynamicSwin"}

HOOK = dict(type="mmsparse.SparsityHook")

CONSTRUCTOR = "mmsparse.SparsityOptimWrapperConstructor"


def micro(cfg, name):
    """The same config with a network small enough for a test."""
    cfg = copy.deepcopy(cfg)
    if "swin" in name:
        cfg.model.backbone.update(embed_dims=32, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8], init_cfg=None)
        channels = [32, 64, 128, 256]
    else:
        cfg.model.backbone.update(arch="atto", init_cfg=None)
        channels = [40, 80, 160, 320]
    if name.endswith("det"):
        cfg.model.neck.in_channels = channels
        cfg.model.rpn_head.anchor_generator.scales = [4]
        for part in ("bbox_head", "mask_head"):
            cfg.model.roi_head[part].num_classes = len(CLASSES)
    else:
        cfg.model.decode_head.update(in_channels=channels, channels=64, norm_cfg=dict(type="BN"))
        cfg.model.auxiliary_head.update(in_channels=channels[2], channels=32, norm_cfg=dict(type="BN"))
        cfg.model.data_preprocessor.size = (96, 96)
    return cfg


@pytest.mark.parametrize("name", STOCK)
def test_only_the_sparsity_parts_differ(name):
    dense = stock(STOCK[name])
    before = copy.deepcopy(dense.to_dict())
    dynamic = mmsparse.sparsify(dense, 0.8, sparsity=dict(explore=0.5))
    assert dense.to_dict() == before
    old, new = flat(before), flat(dynamic.to_dict())
    changed = {key: new[key] for key in new if old.get(key, "absent") != new[key]}
    assert changed == {
        "model.backbone.type": f"mmsparse.{CLASS[name]}",
        "model.backbone.sparsity.keep_ratio": 0.8,
        "model.backbone.sparsity.explore": 0.5,
        "custom_hooks": [HOOK],
        "optim_wrapper.constructor": CONSTRUCTOR,
    }
    assert old.keys() <= new.keys() | {"custom_hooks"}


@pytest.mark.parametrize("name", STOCK)
def test_dense_weights_fit_and_only_the_router_is_new(name):
    dense_cfg = micro(stock(STOCK[name]), name)
    init_default_scope(dense_cfg.default_scope)
    dense, dynamic = MODELS.build(dense_cfg.model), MODELS.build(mmsparse.sparsify(dense_cfg).model)
    result = dynamic.load_state_dict(dense.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert result.missing_keys and all(key.startswith("backbone.router.") for key in result.missing_keys)
    mmsparse.set_keep_ratio(dynamic, 1.0)
    picture = torch.randn(1, 3, 75, 107)
    with torch.no_grad():
        for ours, theirs in zip(dynamic.train(False).extract_feat(picture), dense.train(False).extract_feat(picture)):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STOCK)
def test_a_training_step(name, scenes, tmp_path):
    cfg = mmsparse.sparsify(micro(stock(STOCK[name]), name), hook=dict(anneal=None))
    runner = Runner.from_cfg(on_scenes(cfg, "mask-rcnn" if name.endswith("det") else "upernet", scenes, tmp_path))
    logged, parse = [], type(runner.model).parse_losses
    runner.model.parse_losses = lambda losses: logged.append(parse(runner.model, losses)) or logged[-1]
    runner.train()
    assert len(logged) == 2
    for total, log in logged:
        assert total.isfinite()
        assert [round(log[f"keep_ratio/s2b{i}"].item() * 100, 4) for i in (1, 2, 3)] == [70, 50, 30]  # of 10x10 cells
        assert log["loss_sparsity"].item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", STOCK)
def test_the_written_file_reads_back_to_the_same_config(name, tmp_path):
    cfg = mmsparse.sparsify(stock(STOCK[name]), [0.7, 0.6, 0.5])
    cfg.dump(tmp_path / "dynamic.py")
    assert Config.fromfile(tmp_path / "dynamic.py").to_dict() == cfg.to_dict()


SPELLINGS = [
    ("SwinTransformer", "mmdet", "DynamicSwin"),
    ("SwinTransformer", "mmseg", "DynamicSwin"),
    ("mmdet.SwinTransformer", "mmseg", "DynamicSwin"),
    ("mmseg.SwinTransformer", "mmdet", "DynamicSwin"),
    ("mmpretrain.ConvNeXt", "mmdet", "DynamicConvNeXt"),
    ("ConvNeXt", "mmpretrain", "DynamicConvNeXt"),
    ("VisionTransformer", "mmpretrain", "DynamicViT"),
    ("mmpretrain.VisionTransformer", "mmseg", "DynamicViT"),
    ("mmseg.VisionTransformer", "mmdet", "DynamicViT"),
    ("BEiT", "mmseg", "DynamicBEiT"),
    ("MAE", "mmseg", "DynamicBEiT"),
    ("BEiTViT", "mmpretrain", "DynamicBEiT"),
    ("ViTSAM", "mmpretrain", "DynamicViTSAM"),
    ("ViTEVA02", "mmpretrain", "DynamicViTEVA02"),
]


@pytest.mark.parametrize("kind, scope, expected", SPELLINGS)
def test_every_spelling_of_the_type(kind, scope, expected):
    assert mmsparse.sparsify(of(dict(type=kind), scope)).model.backbone.type == f"mmsparse.{expected}"


def test_a_class_and_a_scope_inside_the_model():
    from mmseg.models import SwinTransformer

    assert mmsparse.sparsify(of(dict(type=SwinTransformer))).model.backbone.type == "mmsparse.DynamicSwin"
    cfg = of(dict(type="SwinTransformer"), scope="mmpretrain", _scope_="mmdet")
    assert mmsparse.sparsify(cfg).model.backbone.type == "mmsparse.DynamicSwin"


def test_hooks_are_kept_and_ours_is_there_once():
    cfg = of(dict(type="SwinTransformer")) | dict(custom_hooks=[dict(type="EMAHook")])
    once = mmsparse.sparsify(cfg)
    assert once.custom_hooks == [dict(type="EMAHook"), HOOK]
    cfg["custom_hooks"] = [dict(HOOK, loss_weight=3.0), dict(type="EMAHook")]
    cfg["custom_hooks"][0]["priority"] = "LOW"  # which the runner takes
    again = mmsparse.sparsify(cfg, hook=dict(anneal=None))
    assert again.custom_hooks == [dict(HOOK, loss_weight=3.0, anneal=None, priority="LOW"), dict(type="EMAHook")]


def test_parameter_groups_keep_the_configs_own_keys():
    keys = dict(custom_keys=dict(norm=dict(decay_mult=0.0)))
    cfg = of(dict(type="SwinTransformer")) | dict(optim_wrapper=dict(type="OptimWrapper", paramwise_cfg=keys))
    wrapper = mmsparse.sparsify(cfg, param_groups=dict(backbone_mult=0.2, freeze_epochs=5)).optim_wrapper
    assert wrapper.constructor == CONSTRUCTOR
    assert wrapper.paramwise_cfg.to_dict() == dict(keys, backbone_mult=0.2, freeze_epochs=5)
    cfg["optim_wrapper"]["constructor"] = "MyConstructor"
    assert mmsparse.sparsify(cfg).optim_wrapper.constructor == "MyConstructor"
    with pytest.raises(ValueError, match="the config has its constructor MyConstructor"):
        mmsparse.sparsify(cfg, param_groups=dict(backbone_mult=0.2))
    with pytest.raises(ValueError, match="the config has no `optim_wrapper`"):
        mmsparse.sparsify(of(dict(type="SwinTransformer")), param_groups=dict(backbone_mult=0.2))


def test_a_teacher(tmp_path):
    (tmp_path / "dense.pth").touch()
    cfg = mmsparse.sparsify(of(dict(type="SwinTransformer")), teacher="self")
    assert cfg.custom_hooks == [HOOK, dict(type="mmsparse.TeacherHook", teacher="self")]
    other = dict(teacher="mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", checkpoint=str(tmp_path / "dense.pth"))
    cfg = mmsparse.sparsify(of(dict(type="SwinTransformer")), teacher=other)
    assert cfg.custom_hooks[1] == dict(type="mmsparse.TeacherHook", **other)
    with pytest.raises(ValueError, match="expected argument `teacher` to be .* but got 'nowhere.py'"):
        mmsparse.sparsify(of(dict(type="SwinTransformer")), teacher="nowhere.py")


@pytest.mark.parametrize("more", [{}, dict(final_norm=True, patch_bias=True, patch_norm=True)], ids=["plain", "full"])
def test_mmsegs_vit_and_its_translation_compute_the_same(more):
    from mmseg.models import VisionTransformer

    torch.manual_seed(0)
    small = dict(img_size=(64, 64), embed_dims=32, num_layers=4, num_heads=4, out_indices=(1, 3), qkv_bias=True, **more)
    small |= dict(norm_cfg=dict(type="LN", eps=1e-6), with_cls_token=bool(more))
    dense = VisionTransformer(**small)
    dense.init_weights()
    init_default_scope("mmseg")
    dynamic = MODELS.build(mmsparse.sparsify(of(dict(type="VisionTransformer", **small), "mmseg")).model.backbone)
    result = dynamic.load_state_dict(dense.state_dict(), strict=False)
    assert all(key.startswith("router.") for key in result.missing_keys)
    assert set(result.unexpected_keys) <= {"cls_token"}  # without class tokens mmseg's class has one all the same
    assert_same_maps(dynamic, dense, torch.randn(2, 3, 72, 104), rtol=1e-4)


def assert_same_maps(dynamic, dense, picture, rtol):
    mmsparse.set_keep_ratio(dynamic, 1.0)
    dense.train(False)  # returns nothing
    with torch.no_grad():
        ours, theirs = dynamic.train(False)(picture), dense(picture)
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5)


BEIT_CASES = [("BEiT", {}), ("BEiT", dict(qv_bias=False, final_norm=True)), ("MAE", dict(patch_norm=True))]


@pytest.mark.parametrize("kind, more", BEIT_CASES, ids=["BEiT", "BEiT-no-bias", "MAE"])
def test_mmsegs_beit_and_its_translation_compute_the_same(kind, more):
    from mmseg.models import backbones

    torch.manual_seed(0)
    small = dict(img_size=(64, 96), embed_dims=32, num_layers=4, num_heads=4, out_indices=(1, 3), **more)
    dense = getattr(backbones, kind)(**small)
    for parameter in dense.parameters():  # biases, positions, and scales are zeros or ones otherwise
        torch.nn.init.normal_(parameter, std=0.3)
    init_default_scope("mmseg")
    dynamic = MODELS.build(mmsparse.sparsify(of(dict(type=kind, **small), "mmseg")).model.backbone)
    result = dynamic.load_state_dict(dense.state_dict(), strict=False)
    assert result.unexpected_keys == [] and all(key.startswith("router.") for key in result.missing_keys)
    assert_same_maps(dynamic, dense, torch.randn(2, 3, 64, 96), rtol=1e-5)


def test_a_detector_inside_a_wrapper():
    detector = dict(type="MaskRCNN", backbone=dict(type="SwinTransformer"))
    reid = dict(type="ReID", backbone=dict(type="ResNet"))
    cfg = mmsparse.sparsify(dict(default_scope="mmdet", model=dict(type="Wrap", detector=detector, reid=reid)))
    assert cfg.model.detector.backbone.type == "mmsparse.DynamicSwin" and cfg.model.reid.backbone.type == "ResNet"


def test_arguments_of_mmsegs_vit_become_mmpretrains():
    vit = dict(
        type="VisionTransformer",
        img_size=(512, 512),
        embed_dims=384,
        num_heads=6,
        mlp_ratio=4,
        out_indices=(2, 5, 8, 11),
        attn_drop_rate=0.1,
        norm_cfg=dict(type="LN", eps=1e-6),
        norm_eval=False,
        with_cls_token=False,
    )
    cfg = mmsparse.sparsify(of(vit, "mmseg", pretrained="vit.pth"))
    assert cfg.model.pretrained is None
    assert cfg.model.backbone.to_dict() == dict(
        type="mmsparse.DynamicViT",
        arch=dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
        img_size=(512, 512),
        out_indices=[2, 5, 8, 11],
        out_type="featmap",
        patch_cfg=dict(bias=False),
        layer_cfgs=dict(attn_drop_rate=0.1),
        norm_cfg=dict(type="LN", eps=1e-6),
        final_norm=False,
        with_cls_token=False,
        init_cfg=dict(type="Pretrained", checkpoint="vit.pth"),
        sparsity=dict(keep_ratio=0.7),
    )


def test_trying_a_part_draws_no_weights():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    mmsparse.sparsify(SWIN)
    assert torch.equal(torch.rand(1), expected)


def test_the_whole_network_by_one_line():
    dense = stock(STOCK["swin-det"])
    dynamic = mmsparse.sparsify(dense, 0.5, neck=True, head=dict(tile=8), sparsity=dict(places="every_stage"))
    old, new = flat(dense.to_dict()), flat(dynamic.to_dict())
    changed = {key: new[key] for key in new if old.get(key, "absent") != new[key] and key.startswith("model.")}
    assert changed == {
        "model.backbone.type": "mmsparse.DynamicSwin",
        "model.backbone.sparsity.keep_ratio": 0.5,
        "model.backbone.sparsity.places": "every_stage",
        "model.neck.type": "mmsparse.DynamicFPN",
        "model.neck.sparsity.keep_ratio": 0.5,
        "model.rpn_head.type": "mmsparse.DynamicRPNHead",
        "model.rpn_head.sparsity.keep_ratio": 0.5,
        "model.rpn_head.sparsity.tile": 8,
        "model.roi_head.mask_head.type": "mmsparse.DynamicFCNMaskHead",
        "model.roi_head.mask_head.sparsity.keep_ratio": 0.5,
        "model.roi_head.mask_head.sparsity.tile": 8,
    }


def test_a_ratio_for_each_part_and_a_backbone_that_stays_dense():
    lacking, fitting = (f"mmdet::{name}_fpn_1x_coco.py" for name in ("pvt/retinanet_pvt-t", "retinanet/retinanet_r50"))
    for name, ratio in ((lacking, 0.6), (fitting, dict(neck=0.6, head=0.6))):
        dense = stock(name)
        dynamic = mmsparse.sparsify(dense, ratio, neck=True, head=True)
        assert dynamic.model.backbone == dense.model.backbone
        assert dynamic.model.neck.sparsity == dynamic.model.bbox_head.sparsity == dict(keep_ratio=0.6)
    dynamic = mmsparse.sparsify(stock(STOCK["swin-seg"]), dict(backbone=0.8, head=0.4), head=True)
    assert dynamic.model.backbone.sparsity == dict(keep_ratio=0.8)
    assert dynamic.model.decode_head == dict(
        stock(STOCK["swin-seg"]).model.decode_head, type="mmsparse.DynamicUPerHead", sparsity=dict(keep_ratio=0.4)
    )
    assert dynamic.model.auxiliary_head.type == "FCNHead"
