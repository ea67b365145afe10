"""What `mmsparse.sparsify` refuses, and in which words."""

import pytest
from dense_configs import STOCK, SWIN, of, stock

import mmsparse

REFUSALS = [
    (of(dict(type="ResNeSt")), {}, "model.backbone is mmdet.ResNeSt.*Supported are mmpretrain.ConvNeXt, mmdet.Swin"),
    (of(dict(type="BEiTViT", with_cls_token=False), "mmpretrain"), {}, "`with_cls_token` to be True with relative"),
    (of(dict(type="ViTSAM", use_abs_pos=False), "mmpretrain"), {}, "`use_abs_pos` to be True, because the stock class"),
    (of(dict(type="SwinTransformer"), "mmpretrain"), {}, "with shift_one_window=False"),
    (of(dict(type="mmsparse.DynamicSwin")), {}, "it is dynamic already"),
    (of(dict(type="VisionTransformer", output_cls_token=True), "mmseg"), {}, "`output_cls_token`: its head wants"),
    (dict(model=dict(type="YOLO")), {}, r"the model \(YOLO\) has no `backbone`"),
    (dict(train_cfg=dict()), {}, r"to have a dict `model`, but it has \['train_cfg'\]"),
    (dict(train_cfg=dict()), dict(neck=True), r"to have a dict `model`, but it has"),
    (
        of(dict(type="SwinTransformer"), teacher=dict(backbone=dict(type="mmpretrain.ConvNeXt"))),
        {},
        r"model.backbone \(mmdet.SwinTransformer\) and model.teacher.backbone \(mmpretrain.ConvNeXt\)",
    ),
    (of(dict(type="SwinTransformer")), dict(keep_ratio=1.5), r"`keep_ratio` to be in \(0, 1\], but got 1.5"),
    (of(dict(type="SwinTransformer")), dict(keep_ratio=0.3), "`keep_ratio`=0.3 leaves -0.1"),
    (of(dict(type="SwinTransformer")), dict(keep_ratio=[0.5, 0.5]), "one for each of the 3 places"),
    (of(dict(type="SwinTransformer")), dict(sparsity=dict(keep_ratio=0.5)), "Give the argument `keep_ratio` instead"),
    (
        of(dict(type="SwinTransformer")),
        dict(sparsity=dict(ratio=1)),
        "has the unknown key 'ratio'; it knows",
    ),
    (of(dict(type="SwinTransformer")), dict(sparsity=dict(cumulative=True)), "or use mmsparse.DynamicViT"),
    (
        of(dict(type="SwinTransformer")),
        dict(hook=dict(weight=3)),
        r"SparsityHook has the unknown key 'weight'; SparsityHook knows \['anneal', 'loss_weight', 'per_image', ",
    ),
    (of(dict(type="SwinTransformer")), dict(hook=dict(loss_weight=-1.0)), "`loss_weight` to be >= 0"),
    (
        {**of(dict(type="SwinTransformer")), "optim_wrapper": dict(optimizer=dict(type="AdamW", lr=1.0))},
        dict(param_groups=dict(new=2)),
        r"`paramwise_cfg`: unknown keys \['new'\]",
    ),
]


@pytest.mark.parametrize("cfg, arguments, sentence", REFUSALS)
def test_refusals_say_what_was_found_and_what_would_do(cfg, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        mmsparse.sparsify(cfg, **arguments)


SHALLOW = of(dict(type="ConvNeXt", arch=dict(depths=[2, 2, 2, 2], channels=[8, 16, 32, 64])), "mmpretrain")


@pytest.mark.parametrize(
    "cfg, arguments, sentence",
    [
        (SHALLOW, {}, r"The default places .*do not fit .*such as places=\[\(0, 1\), \(1, 1\), \(2, 1\), \(3, 1\)\]$"),
        (of(dict(type="SwinTransformer", depths=(2, 2, 2, 2))), {}, r"do not fit a network with \[2, 2, 2, 2\] blocks"),
        (SWIN, dict(sparsity=dict(places=[(0, 9)])), r"`places` to hold .*but got \(0, 9\)"),
        (SWIN, dict(sparsity=dict(scorer="dict(type='MLPScorer')")), r"but got \"dict\(type='MLPScorer'\)\""),
        (SWIN, dict(sparsity=dict(scorer=dict(type="NoScorer"))), "but got 'NoScorer'"),
        (SWIN, dict(sparsity=dict(explore=2)), r"`explore` to be in \(0, 1\], but got 2"),
        (of(dict(type="VisionTransformer"), "mmpretrain"), dict(sparsity=dict(explore=0)), "to be in .*but got 0"),
        (of(dict(type="ConvNeXt", depths=[2]), "mmpretrain"), {}, "unexpected keyword argument 'depths'"),
    ],
)
def test_what_could_not_be_built_is_refused(cfg, arguments, sentence):
    with pytest.raises((ValueError, TypeError), match=f"^sparsify: model.backbone: .*{sentence}"):
        mmsparse.sparsify(cfg, **arguments)


@pytest.mark.parametrize(
    "part, sentence",
    [
        (dict(neck=dict(tile=0)), "model.neck: .*`tile` to be a positive whole number, but got 0"),
        (dict(head=dict(scorer=dict(type="NoScorer"))), "model.rpn_head: .*'NoScorer'"),
    ],
)
def test_parts_that_could_not_be_built_are_refused(part, sentence):
    with pytest.raises(ValueError, match=f"^sparsify: {sentence}"):
        mmsparse.sparsify(stock(STOCK["swin-det"]), **part)


@pytest.mark.parametrize(
    "train_cfg", [dict(type="IterBasedTrainLoop", max_iters=160000), dict(by_epoch=False), dict(max_iters=9)]
)
def test_epochs_of_a_training_that_counts_iterations(train_cfg):
    cfg = {**SWIN, "optim_wrapper": dict(type="OptimWrapper"), "train_cfg": train_cfg}
    with pytest.raises(
        ValueError, match="`freeze_epochs`: got 5, but this training counts iterations .*Give freeze_iters"
    ):
        mmsparse.sparsify(cfg, param_groups=dict(freeze_epochs=5))
    wrapper = mmsparse.sparsify(cfg, param_groups=dict(freeze_iters=5)).optim_wrapper
    assert wrapper.paramwise_cfg.to_dict() == dict(freeze_iters=5)
    cfg["train_cfg"] = dict(type="EpochBasedTrainLoop", max_epochs=12)
    assert mmsparse.sparsify(cfg, param_groups=dict(freeze_epochs=5)).optim_wrapper.paramwise_cfg.freeze_epochs == 5


def test_wrong_types():
    with pytest.raises(TypeError, match="`cfg` to be a Config or a dict, but got 'swin.py'"):
        mmsparse.sparsify("swin.py")
    with pytest.raises(TypeError, match="`keep_ratio` to be a number"):
        mmsparse.sparsify(of(dict(type="SwinTransformer")), "0.7")
    for name in ("sparsity", "hook", "param_groups"):
        with pytest.raises(TypeError, match=f"^sparsify: expected argument `{name}` to be a dict or None, but got 'x'"):
            mmsparse.sparsify(SWIN, **{name: "x"})
    with pytest.raises(TypeError, match="^sparsify: expected argument `neck` to be True, False or a dict, but got 4"):
        mmsparse.sparsify(SWIN, neck=4)
    with pytest.raises(TypeError, match="^sparsify: expected argument `teacher` to be 'twin', .*, but got 1$"):
        mmsparse.sparsify(SWIN, teacher=1)
    with pytest.raises(TypeError, match="^TeacherHook: expected argument `feature_weight` to be a number .*'a'$"):
        mmsparse.sparsify(SWIN, teacher=dict(feature_weight="a"))


@pytest.mark.parametrize(
    "path, arguments, sentence",
    [
        (
            "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py",
            dict(neck=True),
            "argument `neck`: model.neck is mmdet.YOLOV3Neck. Supported are mmdet.FPN",
        ),
        ("mmseg::swin/" + STOCK["swin-seg"].split("/")[1], dict(neck=True), "argument `neck`: the model has no neck"),
        (
            STOCK["swin-det"],
            dict(keep_ratio=[0.7, 0.5, 0.3], neck=True),
            r"one number, or a dict of \['backbone', 'neck'\]",
        ),
        (
            STOCK["swin-det"],
            dict(keep_ratio=dict(backbone=0.7, head=0.5), neck=True),
            r"to name the routed parts \['backbone', 'neck'\], but got {'backbone': 0.7, 'head': 0.5}",
        ),
        (STOCK["swin-det"], dict(neck=dict(tiles=4)), "model.neck: DynamicFPN: .*the unknown key 'tiles'; it knows"),
        (STOCK["swin-det"], dict(keep_ratio=1.5, head=True), r"`keep_ratio` to be in \(0, 1\], but got 1.5"),
    ],
)
def test_parts_that_cannot_be_routed_are_named(path, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        mmsparse.sparsify(stock(path), **arguments)
