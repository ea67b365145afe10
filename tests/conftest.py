import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # threads that spin long starve each other on a busy machine
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import support
import torch
from hypothesis import HealthCheck, Phase, settings
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from mmsparse import compat, trust

compat.prepare()

import hasten  # noqa: E402, F401

# The plugin reads --hypothesis-profile before it sees a test.
COMMON = dict(deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
COMMON["phases"] = [Phase.explicit, Phase.generate, Phase.shrink]
settings.register_profile("ci", derandomize=True, max_examples=30, **COMMON)
settings.register_profile("long", derandomize=False, max_examples=2000, **COMMON)


def pytest_addoption(parser):
    parser.addoption("--renew-golden", action="store_true", help="write the numbers of tests/golden anew")
    parser.addoption("--support", type=Path, help="add what the tests marked `supports` find to this file: support.py")
    parser.addoption("--figures", type=Path, help="add what the tests of tests/soak measure to this file")
    parser.addoption("--fuzz", type=int, default=0, help="so many random networks of each family, new ones each time")


def pytest_collection_modifyitems(items):
    for item in items:
        support.mark(item)


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: no need to look through it again and again


def pytest_configure(config):
    if config.getoption("--support") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Support(config.getoption("--support")))


class Support:
    def __init__(self, file):
        self.file, self.found = file, {}

    def pytest_runtest_logreport(self, report):
        support.collect(self.found, report)

    def pytest_sessionfinish(self):
        support.write(self.found, self.file)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """The same random numbers; no default scope, logger (to a stream that is closed) or trust of an earlier test."""
    for switch in (trust.WEIGHTS, trust.ANYTHING):
        monkeypatch.setenv(switch, "0")
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()


@pytest.fixture
def unfilled(monkeypatch):
    """Weights that nobody looks at begin as zeros: to draw them is most of what building a large network takes."""
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda weight, *_, **__: torch.nn.init.zeros_(weight))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    from scenes import make

    return make(tmp_path_factory.mktemp("scenes") / "data")
