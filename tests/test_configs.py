"""Configs parse, do what their names say, are listed where users look, and build."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "configs").glob("*/metafile.yml"))
PATHS = [path for folder in FOLDERS for path in sorted(folder.glob("*.py"))]
DYNAMIC = [path for path in PATHS if "dynamic-" in path.stem]
DENSE = [path for path in PATHS if "dynamic-" not in path.stem]
CONVNEXT = ROOT / "configs/dynamic_convnext"
FAMILIES = {
    "mask-rcnn": "mask-rcnn_dynamic-convnext-t_k70_fpn_amp-ms-crop-3x_coco",
    "retinanet": "retinanet_dynamic-convnext-t_k70_fpn_amp-ms-crop-3x_coco",
    "upernet": "dynamic-convnext-t_k70_upernet_8xb2-amp-160k_ade20k-512x512",
    "semantic-fpn": "dynamic-convnext-t_k70_fpn_8xb2-amp-160k_ade20k-512x512",
}


def of_name(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


@cache
def flat(path: Path) -> dict[str, Any]:
    """The resolved config as {dotted key: value}; lists stay whole, so a replaced list shows."""
    return dict(_leaves(Config.fromfile(path).to_dict()))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def twin(path: Path) -> Path:
    return path.with_name(re.sub(r"_k\d+", "", path.name).replace("dynamic-", ""))


def metafile(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "metafile.yml").read_text())


def test_there_are_configs():
    assert CONVNEXT in FOLDERS
    assert len(DYNAMIC) >= 16


@of_name(PATHS)
def test_every_config_parses_and_has_a_plain_name(path: Path):
    cfg = flat(path)
    assert re.fullmatch(r"[a-z0-9_-]+", path.stem)
    assert cfg["default_scope"] == ("mmdet" if path.stem.endswith("_coco") else "mmseg")
    assert "openmmlab.com" not in cfg["model.backbone.init_cfg.checkpoint"]


@of_name(DYNAMIC)
def test_a_dynamic_config_does_what_its_name_says(path: Path):
    cfg = flat(path)
    percent = re.search(r"_k(\d+)_", path.stem)[1]
    assert cfg["model.backbone.type"].startswith("mmsparse.Dynamic")
    assert cfg["model.backbone.sparsity.keep_ratio"] == int(percent) / 100
    assert cfg["custom_hooks"] == [dict(type="mmsparse.SparsityHook")]


@of_name(DENSE)
def test_a_dense_config_is_dense(path: Path):
    cfg = flat(path)
    assert cfg["model.backbone.type"].startswith("mmpretrain.")
    assert not [key for key in cfg if "sparsity" in key or key == "custom_hooks"]


@of_name(DYNAMIC)
def test_a_dynamic_config_is_its_dense_twin_and_three_keys(path: Path):
    dynamic, dense = flat(path), flat(twin(path))
    differing = {key for key in dynamic.keys() | dense.keys() if dynamic.get(key) != dense.get(key)}
    assert differing == {"model.backbone.type", "model.backbone.sparsity.keep_ratio", "custom_hooks"}


@of_name([path for path in PATHS if "convnext-" in path.stem])
def test_the_letter_in_a_name_is_the_arch(path: Path):
    cfg = flat(path)
    letter = re.search(r"convnext-([a-z])_", path.stem)[1]
    arch, num_layers = {"t": ("tiny", 6), "s": ("small", 12)}[letter]
    assert cfg["model.backbone.arch"] == arch
    assert f"/convnext-{arch}_" in cfg["model.backbone.init_cfg.checkpoint"]
    assert cfg["optim_wrapper.paramwise_cfg.num_layers"] == num_layers


@of_name([path for path in PATHS if "8xb2" in path.stem or path.stem.endswith("_coco")])
def test_the_batch_is_the_one_of_the_name(path: Path):
    assert flat(path)["train_dataloader.batch_size"] == 2
    assert flat(path)["auto_scale_lr.base_batch_size"] == 16


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_metafile_lists_every_config_once_and_nothing_else(folder: Path):
    content = metafile(folder)
    listed = [model["Config"] for model in content["Models"]]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in folder.glob("*.py"))
    collections = {collection["Name"] for collection in content["Collections"]}
    for model in content["Models"]:
        assert model["Name"] == Path(model["Config"]).stem
        assert model["In Collection"] in collections
        keep_ratio = flat(ROOT / model["Config"]).get("model.backbone.sparsity.keep_ratio")
        assert model["Metadata"].get("Keep Ratio") == keep_ratio


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_links_every_config(folder: Path):
    readme = (folder / "README.md").read_text()
    assert sorted(re.findall(r"\]\(([^)/]+\.py)\)", readme)) == sorted(path.name for path in folder.glob("*.py"))


def test_the_model_index_imports_every_metafile():
    index = yaml.safe_load((ROOT / "model-index.yml").read_text())
    assert sorted(index["Import"]) == [str(folder.relative_to(ROOT) / "metafile.yml") for folder in FOLDERS]


def build(cfg: Config) -> nn.Module:
    cfg.model.backbone.init_cfg = None  # no download
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model).eval()


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_dense_checkpoint_fits_and_keeping_everything_gives_its_features(name: str):
    from mmsparse import set_keep_ratio

    path = CONVNEXT / f"{name}.py"
    dense, dynamic = build(Config.fromfile(twin(path))), build(Config.fromfile(path))
    loaded = dynamic.load_state_dict(dense.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert {key.split(".")[1] for key in loaded.missing_keys} == {"router"}

    assert dynamic.backbone.router.keep_ratio == (0.7, 0.5, 0.3)
    set_keep_ratio(dynamic, 1.0)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(dynamic.extract_feat(image), dense.extract_feat(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family, lowest", [("retinanet", 0.95**7), ("semantic-fpn", 0.9**7)])
def test_new_parameters_learn_at_the_full_rate_and_vectors_do_not_decay(family: str, lowest: float):
    cfg = Config.fromfile(CONVNEXT / f"{FAMILIES[family]}.py")
    model = build(cfg)
    cfg.optim_wrapper.type = "OptimWrapper"  # the mixed-precision one wants a GPU
    cfg.optim_wrapper.pop("loss_scale", None)
    constructor = cfg.optim_wrapper.pop("constructor")
    paramwise = cfg.optim_wrapper.pop("paramwise_cfg")
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        make = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(type=constructor, optim_wrapper_cfg=cfg.optim_wrapper, paramwise_cfg=paramwise)
        )
        groups = make(model).param_groups

    group_of = {parameter: group for group in groups for parameter in group["params"]}
    for parameter in model.backbone.router.parameters():
        assert group_of[parameter]["lr"] == pytest.approx(1e-4)
        assert group_of[parameter]["weight_decay"] == (0.0 if parameter.dim() == 1 else 0.05)
    assert min(group["lr"] for group in groups) == pytest.approx(1e-4 * lowest)
