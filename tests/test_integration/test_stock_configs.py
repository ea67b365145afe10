"""The promise to users: a stock config of the installed libraries, one word and a hook changed, trains and predicts."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from scenes import CLASSES, at

from mmsparse.apis import set_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import random_pictures
from mmsparse.configs import read_config

STOCK = {
    "mask-rcnn": "mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "upernet": "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
}
CHANGE = {
    "model.backbone.type": "mmsparse.DynamicConvNeXt",
    "model.backbone.sparsity": dict(keep_ratio=0.7),
    "custom_hooks": [dict(type="mmsparse.SparsityHook", anneal=None)],
}


def stock(name, **changes):
    cfg = read_config(STOCK[name])
    cfg.merge_from_dict({"model.backbone.init_cfg": None, "model.backbone.arch": "atto", **changes})
    channels = [40, 80, 160, 320]  # the smallest arch, so that the test takes seconds
    if name == "mask-rcnn":
        cfg.model.neck.in_channels = channels
        cfg.model.rpn_head.anchor_generator.scales = [4]
        for part in ("bbox_head", "mask_head"):
            cfg.model.roi_head[part].num_classes = len(CLASSES)
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # an untrained detector is unsure of everything
    else:
        cfg.model.decode_head.update(in_channels=channels, channels=64)
        cfg.model.auxiliary_head.update(in_channels=160, channels=32)
        cfg.model.data_preprocessor.size = (96, 96)
        cfg.model.test_cfg = dict(mode="whole")
    cfg.work_dir = None
    return cfg


def on_scenes(cfg, name, scenes, work_dir):
    """Point a stock config to the generated scenes and to two iterations on a CPU."""
    base = "detection" if name == "mask-rcnn" else "segmentation"
    data = Config.fromfile(f"configs/_base_/datasets/scenes_{base}.py")
    for key in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        cfg[key] = data[key]
    options = {k: v for k, v in at(scenes).items() if name == "mask-rcnn" or not k.endswith("ann_file")}
    cfg.merge_from_dict(options)
    cfg.train_dataloader.batch_size = 2
    if name == "mask-rcnn":
        cfg.train_dataloader.dataset.pipeline[1].with_mask = True
        cfg.model.train_cfg.rcnn.sampler.num = 64
        cfg.model.test_cfg.rcnn.max_per_img = 10
        cfg.model.roi_head.bbox_head.fc_out_channels = 64
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=10)
    cfg.param_scheduler = []
    cfg.optim_wrapper.type = "OptimWrapper"
    cfg.optim_wrapper.pop("loss_scale", None)
    cfg.log_processor = dict(by_epoch=False)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=2)
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=1)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.parametrize("name", STOCK)
def test_train_two_iterations_and_predict(name, scenes, tmp_path):
    runner = Runner.from_cfg(on_scenes(stock(name, **CHANGE), name, scenes, tmp_path))
    logged = []
    collect = type(runner.model).parse_losses
    runner.model.parse_losses = lambda losses: logged.append(collect(runner.model, losses)) or logged[-1]
    runner.train()
    assert len(logged) == 2
    for total, log in logged:
        assert total.isfinite()
        # exact counts: 10x10 cells at stride 16
        assert [round(log[f"keep_ratio/s2b{i}"].item() * 100, 4) for i in (1, 2, 3)] == [70, 50, 30]
        assert log["loss_sparsity"].item() == pytest.approx(0.0, abs=1e-9)
    metrics = runner.test()
    assert any("mIoU" in key or "bbox_mAP" in key for key in metrics)


@pytest.mark.parametrize("name", STOCK)
def test_dense_checkpoint_loads_and_keep_ratio_one_predicts_the_same(name, tmp_path):
    torch.manual_seed(0)
    dense_cfg = stock(name)
    dense_cfg.model.backbone.init_cfg = None
    init_default_scope(dense_cfg.default_scope)
    dense = MODELS.build(dense_cfg.model)
    dense.init_weights()
    torch.save({"state_dict": dense.state_dict()}, tmp_path / "dense.pth")

    dynamic = MODELS.build(stock(name, **CHANGE).model)
    result = dynamic.load_state_dict(torch.load(tmp_path / "dense.pth")["state_dict"], strict=False)
    assert result.unexpected_keys == []
    assert result.missing_keys and all(k.startswith("backbone.router.") for k in result.missing_keys)
    outputs = []
    for model in (dense, dynamic):
        model.train(False)
        batch = prepare_batch(model, random_pictures(dense_cfg, 1, (96, 128)))
        if model is dynamic:
            set_keep_ratio(model, 1.0)
        with torch.no_grad():
            outputs.append(predict(model, batch)[0])
    a, b = outputs
    if name == "mask-rcnn":
        assert len(a.pred_instances) == len(b.pred_instances) > 10
        torch.testing.assert_close(a.pred_instances.bboxes, b.pred_instances.bboxes, rtol=0, atol=1e-2)
        torch.testing.assert_close(a.pred_instances.scores, b.pred_instances.scores, rtol=0, atol=1e-4)
        assert torch.equal(a.pred_instances.labels, b.pred_instances.labels)
    else:
        torch.testing.assert_close(a.seg_logits.data, b.seg_logits.data, rtol=0, atol=1e-4)


def test_classes_of_the_configs_are_the_writers():
    from mmsparse.datasets import scenes as writer

    seg = Config.fromfile("configs/_base_/datasets/scenes_segmentation.py").metainfo
    assert CLASSES == writer.CLASSES and seg.classes == writer.SEG_CLASSES
    assert tuple(map(tuple, seg.palette)) == writer.PALETTE
