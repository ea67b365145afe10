"""Draws that depend on the iteration, not on when the process started."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsparse.registry import HOOKS


@HOOKS.register_module()
class SeedHook(Hook):
    """Seed the main process anew at every training iteration, so that a resumed run continues with the same losses.

    Checkpoints do not hold the state of random generators. The data order needs no help: mmengine advances the
    loader to where it stopped.

    Args:
        seed: The run's seed.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        seed = np.random.SeedSequence([self.seed, runner.iter, get_rank()]).generate_state(1).item()
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
