import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch

from mmsparse import compat

compat.prepare()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
