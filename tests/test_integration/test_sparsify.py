"""`mmsparse.sparsify`: a stock dense config in, a dynamic one out."""

import copy
import re
import runpy

import pytest
import torch
from commands import run_tool
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from scenes import CLASSES, ROOT
from test_stock_configs import on_scenes

import mmsparse
from mmsparse import compat

compat.prepare()

STOCK = {
    "swin-det": "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "convnext-det": "mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "swin-seg": "mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
}
CLASS = {"swin-det": "DynamicSwin", "convnext-det": "DynamicConvNeXt", "swin-seg": "DynamicSwin"}
HOOK = dict(type="mmsparse.SparsityHook")
CONSTRUCTOR = "mmsparse.SparsityOptimWrapperConstructor"


def stock(path):
    return Config.fromstring(f"_base_ = {path!r}", ".py")


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


def flat(tree, prefix=""):
    if isinstance(tree, dict) and tree:
        return {k: v for key, value in tree.items() for k, v in flat(value, f"{prefix}.{key}").items()}
    return {prefix[1:]: tree}


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


def of(backbone, scope="mmdet", **more):
    return dict(default_scope=scope, model=dict(type="Model", backbone=backbone, **more))


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
    mmsparse.set_keep_ratio(dynamic, 1.0)
    picture = torch.randn(2, 3, 72, 104)
    dense.train(False)  # returns nothing
    with torch.no_grad():
        ours, theirs = dynamic.train(False)(picture), dense(picture)
    assert len(ours) == len(theirs) == 2
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


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


REFUSALS = [
    (of(dict(type="ResNet")), {}, "model.backbone is mmdet.ResNet.*Supported are mmpretrain.ConvNeXt, mmdet.Swin"),
    (of(dict(type="MAE"), "mmseg"), {}, "mmseg.MAE: its attention adds a relative position bias"),
    (of(dict(type="BEiT"), "mmseg"), {}, "mmseg.BEiT: its attention adds a relative position bias"),
    (of(dict(type="SwinTransformer"), "mmpretrain"), {}, "with shift_one_window=False"),
    (of(dict(type="mmsparse.DynamicSwin")), {}, "it is dynamic already"),
    (of(dict(type="VisionTransformer", output_cls_token=True), "mmseg"), {}, "`output_cls_token`: its head wants"),
    (dict(model=dict(type="YOLO")), {}, r"the model \(YOLO\) has no `backbone`"),
    (dict(train_cfg=dict()), {}, r"to have a dict `model`, but it has \['train_cfg'\]"),
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


SWIN = of(dict(type="SwinTransformer"))
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
        (of(dict(type="VisionTransformer"), "mmpretrain"), dict(sparsity=dict(explore=0.5)), "can only be 1.0"),
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


def test_trying_a_part_draws_no_weights():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    mmsparse.sparsify(SWIN)
    assert torch.equal(torch.rand(1), expected)


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


def test_the_tool_writes_a_file_that_stands_alone_and_says_what_changed(tmp_path):
    out = tmp_path / "new" / "dynamic.py"
    options = ["--keep-ratio", "0.8", "--teacher", "twin"]
    code, printed, _ = run_tool("misc/sparsify_config", STOCK["swin-det"], out, *options)
    assert code == 0
    assert "model.backbone.type: 'SwinTransformer' -> 'mmsparse.DynamicSwin'" in printed
    assert "model.backbone.sparsity.keep_ratio: 'absent' -> 0.8" in printed
    written = Config.fromfile(out)
    assert written.to_dict() == mmsparse.sparsify(get_config(STOCK["swin-det"]), 0.8, teacher="twin").to_dict()
    assert written.env_cfg.dist_cfg.backend == "nccl" and "_base_" not in out.read_text()  # not fitted to this machine
    before = out.read_text()
    code, _, error = run_tool("misc/sparsify_config", STOCK["swin-det"], out)
    assert code == 2 and "is there already. Name another file, or add --overwrite" in error.splitlines()[-1]
    assert out.read_text() == before


def run_in_process(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["sparsify_config.py", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools/misc/sparsify_config.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(
    "config, sentence",
    [
        ("mmdet::atss/atss_r50_fpn_1x_coco.py", "model.backbone is mmdet.ResNet"),
        ("nowhere.py", "`IN` to be a config file or lib::path, but got 'nowhere.py'"),
        ("mmdet::swin/nowhere.py", "mmdet::swin/nowhere.py"),
    ],
)
def test_the_tool_refuses_in_one_sentence(config, sentence, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dynamic.py"
    assert run_in_process(monkeypatch, config, out) == 2 and not out.exists()
    (_line,) = [text for text in capsys.readouterr().err.splitlines() if sentence in text]


def test_the_tool_takes_dotted_keys(tmp_path, monkeypatch):
    out = tmp_path / "dynamic.py"
    pairs = ["scorer.type=MLPScorer", "scorer.hidden=8", "selector.type=GumbelSelector",
             "fast_path.type=LinearFastPath", "explore=0.5", "places=[(0,1),(2,1)]"]  # fmt: skip
    assert run_in_process(monkeypatch, STOCK["swin-det"], out, "--sparsity", *pairs) == 0
    assert Config.fromfile(out).model.backbone.sparsity == dict(
        keep_ratio=0.7,
        scorer=dict(type="MLPScorer", hidden=8),
        selector=dict(type="GumbelSelector"),
        fast_path=dict(type="LinearFastPath"),
        explore=0.5,
        places=[(0, 1), (2, 1)],
    )


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("swin-det", ["--keep-ratio", "1.5"], r"`--keep-ratio` to be in \(0, 1\], but got 1.5"),
        ("swin-det", ["--keep-ratio", "0.3"], "`--keep-ratio`=0.3 leaves -0.1"),
        ("swin-det", ["--keep-ratio", "0.7", "0.5", "--neck"], r"`--keep-ratio` to be one number"),
        ("swin-det", ["--sparsity", "keep_ratio=0.5"], "Give the argument `--keep-ratio` instead"),
        ("swin-det", ["--sparsity", "scorer.type=NoScorer"], "but got 'NoScorer'"),
        ("swin-seg", ["--neck"], "argument `--neck`: the model has no neck. Supported are mmdet.FPN"),
    ],
)
def test_the_tool_names_its_flags(name, options, sentence, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dynamic.py"
    assert run_in_process(monkeypatch, STOCK[name], out, *options) == 2
    printed = capsys.readouterr().err.splitlines()
    assert re.search(sentence, printed[-1]) and not out.exists()


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
    }


def test_a_ratio_for_each_part_and_a_backbone_that_stays_dense():
    dense = stock("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    for ratio in (0.6, dict(neck=0.6, head=0.6)):
        dynamic = mmsparse.sparsify(dense, ratio, neck=True, head=True)
        assert dynamic.model.backbone == dense.model.backbone
        assert dynamic.model.neck.sparsity == dynamic.model.bbox_head.sparsity == dict(keep_ratio=0.6)
    dynamic = mmsparse.sparsify(stock(STOCK["swin-seg"]), dict(backbone=0.8, head=0.4), head=True)
    assert dynamic.model.backbone.sparsity == dict(keep_ratio=0.8)
    assert dynamic.model.decode_head == dict(
        stock(STOCK["swin-seg"]).model.decode_head, type="mmsparse.DynamicUPerHead", sparsity=dict(keep_ratio=0.4)
    )
    assert dynamic.model.auxiliary_head.type == "FCNHead"


@pytest.mark.parametrize(
    "path, arguments, sentence",
    [
        (
            "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
            dict(neck=True),
            "argument `neck`: model.neck is mmdet.YOLOXPAFPN. Supported are mmdet.FPN",
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
