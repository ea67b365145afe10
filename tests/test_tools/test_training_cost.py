"""What a training step costs beside the dense one, as a table."""

import re

import pytest
from commands import run_tool

TOOL = "misc/training_cost"
DETECTOR = "configs/demo/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-nano_whole-m60_upernet_finetune_scenes.py"


@pytest.mark.parametrize("config", [DETECTOR, pytest.param(SEGMENTER, marks=pytest.mark.slow)])
def test_both_take_a_step(config):
    code, out, err = run_tool(TOOL, config, "--shape", "64", "96", "--rounds", "1", "--threads", "1")
    assert code == 0, err[-3000:]
    rows = dict(re.findall(r"^(dense|routed|of dense) +([\d.]+)", out, re.MULTILINE))
    assert rows.keys() == {"dense", "routed", "of dense"} and all(float(number) > 0 for number in rows.values())
    assert "60% of the arithmetic, explore 0.25" in out


def test_mistakes():
    code, _, err = run_tool(TOOL, "configs/demo/atss_convnext-mini_scenes.py")
    assert code == 2 and "has no dynamic part: its training costs what it costs" in err
    code, _, err = run_tool(TOOL, DETECTOR, "--macs", "1.5")
    assert code == 2 and "`--macs` to be above 0 and below 1, but got 1.5" in err
