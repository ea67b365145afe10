"""Configs, checkpoints and numbers of version 0.1, made by its code: see README.md. Nothing here imports today's."""

# ruff: noqa: E402, I001

import copy
import json
import lzma
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from yapf.yapflib import yapf_api

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # for frozen, which knows no mmsparse

from frozen import SIZES, digest, metainfo, pictures, tensors

from mmsparse.datasets.scenes_io import ScenesArgs, write_scenes
from mmsparse.engine.launch import build_model, read_config

yapf_api.FormatCode = lambda code, **_: (code, True)  # configs are dumped in few lines, to be formatted by ruff
FIRST, SAVED, LAST = 400, 20, 24  # iterations of the training that weights come from, and of the one that is stopped
OF_FLOATS = dict(id=lzma.FILTER_LZMA2, preset=9 | lzma.PRESET_EXTREME, lc=0, lp=2, pb=2)
IN_DOUBLE = """
import runpy, sys, torch
torch.set_default_dtype(torch.float64)
sys.argv.pop(0)
sys.path.insert(0, "tools")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NORM = dict(type="GN", num_groups=2, requires_grad=True)
SLIM = dict(type="LocalGlobalScorer", hidden=4)
RUN = dict(
    default_hooks=dict(
        logger=dict(interval=1),
        checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=SAVED, max_keep_ckpts=2),
    ),
    log_processor=dict(by_epoch=False, window_size=1),
    max_iters=LAST,
    train_cfg=dict(max_iters=LAST, val_interval=LAST + 1),
    optim_wrapper=dict(
        constructor="mmsparse.SparsityOptimWrapperConstructor",
        paramwise_cfg=dict(backbone_mult=0.5, freeze_iters=5),
    ),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=5),
        dict(type="CosineAnnealingLR", eta_min=1e-3, by_epoch=False, begin=5, end=LAST),
    ],
)
DETECTOR = dict(
    model=dict(
        backbone=dict(
            arch=dict(depths=[1, 1], channels=[4, 8]),
            out_indices=[0, 1],
            sparsity=dict(places=[(0, 0), (1, 0)], keep_ratio=[0.8, 0.6], scorer=SLIM),
        ),
        neck=dict(in_channels=[4, 8], out_channels=4, norm_cfg=NORM),
        bbox_head=dict(
            in_channels=4,
            feat_channels=4,
            stacked_convs=1,
            norm_cfg=NORM,
            anchor_generator=dict(strides=[4, 8]),
            sparsity=dict(_delete_=True, keep_ratio=0.4),
        ),
        test_cfg=dict(score_thr=0.01),
    ),
    custom_hooks=[
        dict(type="mmsparse.SparsityHook", anneal=[0.0, 1.0], score_weight=1.0),
        dict(type="mmsparse.TeacherHook", module="neck", levels=(0, 1)),
    ],
    optim_wrapper=dict(optimizer=dict(_delete_=True, type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)),
)
SEGMENTER = dict(
    model=dict(
        backbone=dict(
            _delete_=True,
            type="mmsparse.DynamicSwin",
            embed_dims=4,
            depths=[1, 2],
            mlp_ratio=2,
            num_heads=[1, 2],
            strides=(4, 2),
            out_indices=(0, 1),
            window_size=3,
            drop_path_rate=0.0,
            sparsity=dict(places=[(0, 0), (1, 1)], keep_ratio=[0.7, 0.5], scorer=SLIM),
        ),
        decode_head=dict(
            in_channels=[4, 8], in_index=[0, 1], pool_scales=(1,), channels=4, norm_cfg=NORM,
            sparsity=dict(_delete_=True, keep_ratio=0.5, tile=2),
        ),
    ),
    custom_hooks=[dict(type="mmsparse.SparsityHook", anneal=(0.0, 1.0))],
)  # fmt: skip
BASES = dict(
    detector=("atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py", DETECTOR),
    segmenter=("dynamic-convnext-nano_whole-m60_upernet_finetune_scenes.py", SEGMENTER),
)


def at(data: Path, name: str) -> dict[str, Any]:
    """Options that point a config to a data set; few pictures are enough to evaluate what was trained on them."""
    pairs: dict[str, Any] = {"env_cfg.dist_cfg.backend": "gloo"}
    for split in ("train", "val", "test"):
        pairs[f"{split}_dataloader.dataset.data_root"] = f"{data}/"
        pairs[f"{split}_dataloader.num_workers"] = 0
        pairs[f"{split}_dataloader.persistent_workers"] = False
        pairs[f"{split}_dataloader.batch_size"] = 2
    if name == "detector":
        for split in ("val", "test"):
            pairs[f"{split}_dataloader.dataset.ann_file"] = "annotations/train.json"
            pairs[f"{split}_dataloader.dataset.data_prefix.img"] = "train/images/"
            pairs[f"{split}_evaluator.ann_file"] = f"{data}/annotations/train.json"
    return pairs


def tool(name: str, *args: str | Path, code: str = "", **options: Any) -> None:
    pairs = [f"{key}={value}" for key, value in options.items()]
    script = [f"tools/{name}.py"] if not code else ["-c", code, f"tools/{name}.py"]
    subprocess.run([sys.executable, *script, *args, "--cfg-options", *pairs], check=True)


def logged(folder: Path) -> dict[str, dict[str, float]]:
    """Losses and keep ratios of each step."""
    (page,) = folder.glob("*/vis_data/scalars.json")
    steps = [json.loads(line) for line in page.read_text().splitlines()]
    return {
        str(step["step"]): {k: v for k, v in step.items() if "loss" in k or k.startswith(("lr", "keep_ratio", "grad"))}
        for step in steps
        if "loss" in step
    }


def text(numbers: Any) -> str:
    return " ".join(f"{number:.10g}" for number in numbers)


def outputs(config: Path, checkpoint: Path) -> dict[str, str]:
    """Sums of each raw output, in double precision."""
    model = build_model(read_config(str(config)), str(checkpoint)).double()
    samples = [SimpleNamespace(metainfo=metainfo(size), **metainfo(size)) for size in SIZES]
    with torch.no_grad():
        found = model(pictures(), samples, mode="tensor")
    return {f"{name} {tuple(x.shape)}".strip(): text(digest(x)) for name, x in tensors(found)}


def make(name: str, data: Path, work: Path) -> dict[str, Any]:
    base, changes = BASES[name]
    cfg = Config.fromfile(f"configs/demo/{base}")
    cfg.merge_from_dict(RUN)
    cfg.merge_from_dict(changes)
    cfg.load_from = "first.pth"
    config, saved, where = HERE / f"{name}.py", work / f"iter_{SAVED}.pth", at(data, name)
    cfg.dump(config)
    first = copy.deepcopy(cfg)
    first.merge_from_dict({"train_cfg.max_iters": FIRST, "default_hooks.checkpoint.interval": FIRST, "load_from": None})
    first.optim_wrapper.optimizer = dict(type="AdamW", lr=4e-3, betas=(0.9, 0.98), weight_decay=0.05)
    first.param_scheduler[1].end, first.custom_hooks = FIRST, cfg.custom_hooks[:1]
    work.mkdir()
    first.dump(work / "first.py")
    tool("train", work / "first.py", "--no-validate", "--work-dir", work / "first", **where)
    tool("train", config, "--no-validate", "--work-dir", work, "--load-from", work / f"first/iter_{FIRST}.pth", **where)
    tool("train", config, "--no-validate", "--work-dir", work / "resumed", "--resume", saved, **where)
    tool("test", config, saved, "--work-dir", work / "tested", **where)
    (HERE / f"{name}.pth.xz").write_bytes(lzma.compress(saved.read_bytes(), filters=[OF_FLOATS]))
    tool("train", config, "--no-validate", "--work-dir", work / "exact", "--resume", saved, code=IN_DOUBLE, **where)
    (page,) = (work / "tested").glob("*/*.json")
    straight, resumed = logged(work), logged(work / "resumed")
    assert all(straight[step] == resumed[step] for step in resumed), (straight, resumed)
    metrics = {key: value for key, value in json.loads(page.read_text()).items() if "time" not in key}
    return dict(metrics=metrics, outputs=outputs(config, saved), resumed=logged(work / "exact"))


if __name__ == "__main__":
    work = Path(sys.argv[1])
    write_scenes(work / "data", ScenesArgs(images=12, size=96, seed=0, val=4), progress=False)
    numbers = {name: make(name, work / "data", work / name) for name in BASES}
    (HERE / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")
