"""What a device shows in minutes, of which this machine has some."""

import json

import torch
from commands import run_tool

from mmsparse.ops import OPERATORS

TOOL = "analysis_tools/device_report"


def test_kernels_stand_beside_the_dense_convolution(tmp_path):
    args = ("--sections", "kernels", "--size", "128", "160", "--batches", "1", "--rounds", "1", "--out", tmp_path)
    code, _, err = run_tool(TOOL, *args)
    assert code == 0, err[-3000:]
    report = json.loads((tmp_path / "device.json").read_text())
    rows = {row["case"]: row for row in report["kernels"]}
    assert list(rows) == [f"batch 1, {p}, keep {ratio}" for p in ("f32", "bf16", "f16") for ratio in (0.25, 0.5)]
    assert not any("result" in row for row in rows.values()), rows
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names = {kernel.name for kernel in OPERATORS["slow_fast_conv2d"].kernels if kernel.device in (device, None)}
    assert {"case", "dense", "plain"} <= {name for row in rows.values() for name in row} <= {"case", "dense", *names}
    assert "columns" not in rows["batch 1, f32, keep 0.5"]  # it is for half precision
    table = (tmp_path / "device.md").read_text()
    assert "| case | dense | plain |" in table and "128x160, 1 rounds in turn" in table


def test_what_there_is_no_time_for_is_said(tmp_path):
    code, _, err = run_tool(TOOL, "--minutes", "0", "--sections", "laws", "kernels", "--out", tmp_path)
    assert code == 0, err[-3000:]
    report = json.loads((tmp_path / "device.json").read_text())
    assert {row["result"] for name in ("laws", "kernels") for row in report[name]} == {"no time left"}
