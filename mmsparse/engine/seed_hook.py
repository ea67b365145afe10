"""Draws that depend on the iteration, not on when the process started."""

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsparse.registry import HOOKS


@HOOKS.register_module()
class SeedHook(Hook):
    """Seed torch anew at every training iteration, so that a resumed model draws what it would have drawn.

    Checkpoints do not hold the state of random generators. The order of the pictures needs no help: mmengine advances
    the sampler to where it stopped. Random augmentations are the loader's: some versions of mmengine replay them,
    others draw them anew.

    Args:
        seed: The run's seed.
    """

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        seed = np.random.SeedSequence([self.seed, runner.iter, get_rank()]).generate_state(1).item()
        torch.manual_seed(seed)
