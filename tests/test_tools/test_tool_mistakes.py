"""What users get wrong ends in one sentence, before anything long has begun: of scripts, as processes.

Most of what can be wrong is in test_bad_input.py.
"""

import pytest
import torch
from commands import run_tool
from scenes import at

DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"


def last_line(name, *args):
    code, out, err = run_tool(name, *args)
    assert code == 2 and "Traceback" not in err, (out, err)
    assert len((out + err).splitlines()) < 30, (out, err)  # no runner was built
    return err.splitlines()[-1]


@pytest.fixture
def other(tmp_path):
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    return tmp_path / "other.pth"


TRAIN, TEST, FLOPS, BENCHMARK, MAPS = (
    "train",
    "test",
    *(f"analysis_tools/{name}" for name in ("get_flops", "benchmark", "keep_maps")),
)
COCO = "configs/dynamic_convnext/retinanet_dynamic-convnext-t_k70_fpn_amp-ms-crop-3x_coco.py"
IMAGENET = "configs/imagenet/dynamic-deit-s_k70_8xb128-30e_in1k.py"


@pytest.mark.parametrize(
    "name, args, message",
    [
        (TRAIN, [DEMO, "--cfg-options", "model.backbone.sparsity.keep_ratio=1.5"], "in (0, 1], but got 1.5"),
        (TRAIN, [DEMO, "--auto-scale-lr"], "--auto-scale-lr needs"),
        (TEST, [DEMO, "OTHER"], "does not fit this model: "),
        (TEST, [DEMO, "OTHER", "--out", "OTHER/below/out.pkl"], "Argument `out`: cannot write to the folder"),
        (FLOPS, [DEMO, "--checkpoint", "OTHER"], "does not fit this model: "),
        (MAPS, [DEMO, "OTHER", "--out", "OTHER/below"], "Argument `out`: cannot write to the folder"),
        (MAPS, [DEMO, "none.pth", "--out", "OTHER.maps"], "`checkpoint` to be a file, but got 'none.pth'"),
    ],
)
def test_one_sentence(name, args, message, other, scenes, tmp_path):
    more = ["--work-dir", tmp_path / "runs"] if name in (TRAIN, TEST) else []
    if "--cfg-options" not in args:
        more += ["--cfg-options", *(f"{key}={value}" for key, value in at(scenes).items())]
    args = [arg.replace("OTHER", str(other)) for arg in args]
    line = last_line(name, *args, *more)
    assert line.startswith(f"{name.rpartition('/')[2]}.py: error: ") and message in line


@pytest.mark.parametrize(
    "name, config, missing, hint",
    [
        (FLOPS, COCO, "annotations/instances_val2017.json", ", or take a random picture with --shape H W"),
        (BENCHMARK, COCO, "annotations/instances_val2017.json", ", or take random pictures with --shape H W"),
        (TRAIN, IMAGENET, "", ""),
        (TRAIN, DEMO, "annotations/train.json", ""),
    ],
)
def test_missing_data_is_named(name, config, missing, hint, tmp_path):
    split = "train" if name == TRAIN else "test"
    root = f"{split}_dataloader.dataset.data_root"
    line = last_line(name, config, "--cfg-options", f"{root}={tmp_path}/none/", f"work_dir={tmp_path}/runs")
    assert f"`{split}_dataloader` is not there: '{tmp_path}/none/{missing}' does not exist. " in line
    assert line.endswith(f"--cfg-options {root}=...{hint}")


@pytest.mark.parametrize("by", ["--load-from", "config"])
def test_another_models_weights_do_not_start_a_training(by, other, scenes, tmp_path):
    by = ["--load-from", other, "--cfg-options"] if by == "--load-from" else ["--cfg-options", f"load_from={other}"]
    data = [f"{key}={value}" for key, value in at(scenes).items()]
    line = last_line("train", DEMO, "--work-dir", tmp_path / "runs", *by, *data)
    assert f"`load_from`: {other} does not fit this model: of the" in line


def test_destinations_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    line = last_line("misc/sparsify_config", "configs/demo/atss_convnext-mini_scenes.py", tmp_path / "file" / "x.py")
    assert (
        line
        == f"sparsify_config.py: error: Argument `OUT`: cannot write to the folder '{tmp_path}/file'. Choose another"
    )


def test_what_is_no_config_is_named(tmp_path):
    line = last_line("misc/sparsify_config", "README.md", tmp_path / "x.py")
    assert line.startswith(
        "sparsify_config.py: error: Expected argument `IN` to be a config file, but got 'README.md' ("
    )
