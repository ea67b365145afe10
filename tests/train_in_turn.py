"""Train several configs in one launch, and check that all processes end with the same weights."""

import sys
from pathlib import Path

import torch
from mmengine.model import is_model_wrapper

from mmsparse.cli.launch import build_runner, close_process_group
from mmsparse.configs import read_config


def train(path: str) -> None:
    runner = build_runner(read_config(path, {"train_cfg.max_iters": 2}, launcher="pytorch"))
    runner.train()
    assert is_model_wrapper(runner.model)
    for name, value in runner.model.module.state_dict().items():
        if not value.is_floating_point():
            continue
        mean = value.clone()
        torch.distributed.all_reduce(mean)
        assert torch.allclose(mean / 2, value, rtol=0, atol=1e-6), name
    print(f"{Path(path).stem}: the same weights everywhere", flush=True)


for path in sys.argv[1:]:
    train(path)
close_process_group()
