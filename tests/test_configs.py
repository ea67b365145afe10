"""Configs parse, do what their names say, are listed where users look, and build."""

import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path.parent for path in (ROOT / "configs").glob("*/metafile.yml"))
PATHS = [path for folder in FOLDERS if folder.name != "published" for path in sorted(folder.glob("*.py"))]
DYNAMIC = [path for path in PATHS if "dynamic-" in path.stem]
DENSE = [path for path in PATHS if "dynamic-" not in path.stem]
RIVALS = [path for path in PATHS if path.parent.name == "rivals"]  # narrower networks, without weights to begin from
CONVNEXT = ROOT / "configs/dynamic_convnext"
SWIN = ROOT / "configs/dynamic_swin"
IMAGENET = ROOT / "configs/imagenet"
# what a dynamic config may change in its dense twin, besides the paper's recipe of the classifiers
SPARSE_KEYS = {"model.backbone.type", "model.backbone.sparsity.keep_ratio", "custom_hooks"}
WEIGHT = {
    "dynamic_convnext": {},
    "dynamic_resnet": {},
    "dynamic_swin": {},
    "dynamic_vit": dict(loss_weight=2.0),
}  # the paper's; 10 is ours
SCOPES = {"coco": "mmdet", "ade20k-512x512": "mmseg", "in1k": "mmpretrain"}
FAMILIES = {
    "mask-rcnn": "mask-rcnn_dynamic-convnext-t_k70_fpn_amp-ms-crop-3x_coco",
    "retinanet": "retinanet_dynamic-convnext-t_k70_fpn_amp-ms-crop-3x_coco",
    "upernet": "dynamic-convnext-t_k70_upernet_8xb2-amp-160k_ade20k-512x512",
    "semantic-fpn": "dynamic-convnext-t_k70_fpn_8xb2-amp-160k_ade20k-512x512",
    "mask-rcnn-whole": "mask-rcnn_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco",
    "retinanet-whole": "retinanet_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco",
    "upernet-whole": "dynamic-convnext-t_whole-k50_upernet_8xb2-amp-160k_ade20k-512x512",
    "semantic-fpn-whole": "dynamic-convnext-t_whole-k50_fpn_8xb2-amp-160k_ade20k-512x512",
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


def dense_type(path: Path) -> str:
    """The stock class that a family's dense configs use."""
    if "swin-" in path.stem and path.parent == IMAGENET:
        return "mmsparse.DynamicSwin"  # without sparsity: the stock class returns a list, which no classifier takes
    if "swin-" in path.stem:
        return "mmseg.SwinTransformer" if "_ade20k" in path.stem else "mmdet.SwinTransformer"
    if "r50_" in path.stem:
        return "mmseg.ResNet" if "_ade20k" in path.stem else "mmdet.ResNet"
    if "simple-pyramid" in path.stem:
        return "mmsparse.DynamicViT"  # without sparsity: the stock class has no windows
    return "mmpretrain.ConvNeXt" if "convnext-" in path.stem else "mmpretrain.VisionTransformer"


def twin(path: Path) -> Path:
    return path.with_name(re.sub(r"_(whole-)?k\d+", "", path.name).replace("dynamic-", ""))


def whole_parts(path: Path) -> list[str]:
    """Which parts of the whole network are routed."""
    if "upernet" in path.stem:
        return ["backbone", "decode_head"]
    if "_ade20k" in path.stem:
        return ["backbone", "neck", "decode_head"]
    return ["backbone", "neck", "rpn_head" if "mask-rcnn" in path.stem else "bbox_head"]


def paper_hooks(path: Path) -> list[dict[str, Any]]:
    """The hooks of the paper's ImageNet recipe; the first is the dense network's, too."""
    weight = {"deit-s": 2.0, "deit-b": 5.0}.get(re.search(r"(convnext|swin|deit)-[a-z]", path.stem)[0], 10.0)
    return [
        dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
        dict(type="mmsparse.SparsityHook", loss_weight=weight, anneal=None),
        dict(type="mmsparse.TeacherHook"),
    ]


def paper_keys(path: Path) -> set[str]:
    """What the paper's ImageNet recipe changes besides: gates, and rates of learning."""
    gates = {"selector.type", "detach"}
    rates = {"constructor", "paramwise_cfg.pretrained", "paramwise_cfg.backbone_mult", "paramwise_cfg.freeze_epochs"}
    if "convnext" not in path.stem:
        gates |= {"scorer.type", "scorer.eps"}
    if "swin" in path.stem:
        gates |= {"fast_path.type", "fast_path.eps"}
    if "deit" in path.stem:
        gates |= {"cumulative"}
        rates |= {f"paramwise_cfg.custom_keys.{name}.lr_mult" for name in ("cls_token", "pos_embed")}
    return {f"model.backbone.sparsity.{key}" for key in gates} | {f"optim_wrapper.{key}" for key in rates}


def metafile(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "metafile.yml").read_text())


def test_there_are_configs():
    assert CONVNEXT in FOLDERS
    assert len(DYNAMIC) >= 16


@of_name(PATHS)
def test_every_config_parses_and_has_a_plain_name(path: Path):
    cfg = flat(path)
    assert re.fullmatch(r"[a-z0-9_-]+", path.stem)
    assert cfg["default_scope"] == SCOPES[path.stem.rpartition("_")[2]]
    if path in RIVALS:
        assert cfg["model.backbone.init_cfg"] is None
        return
    weights = cfg["load_from"] if path.parent == IMAGENET else cfg["model.backbone.init_cfg.checkpoint"]
    assert weights.startswith("https://") and "openmmlab.com" not in weights


@of_name(DYNAMIC)
def test_a_dynamic_config_does_what_its_name_says(path: Path):
    cfg = flat(path)
    whole, percent = re.search(r"_(whole-)?k(\d+)_", path.stem).groups()
    assert cfg["model.backbone.type"].startswith("mmsparse.Dynamic")
    ratios = {key: value for key, value in cfg.items() if key.endswith("sparsity.keep_ratio")}
    parts = whole_parts(path) if whole else ["backbone"]
    assert ratios == {f"model.{part}.sparsity.keep_ratio": int(percent) / 100 for part in parts}
    assert cfg["custom_hooks"] == (
        paper_hooks(path)
        if path.parent == IMAGENET
        else [dict(type="mmsparse.SparsityHook", **WEIGHT[path.parent.name])]
    )


@of_name(DENSE)
def test_a_dense_config_is_dense(path: Path):
    cfg = flat(path)
    assert cfg["model.backbone.type"] == dense_type(path)
    assert not [key for key in cfg if "sparsity" in key]
    assert cfg.get("custom_hooks") == (paper_hooks(path)[:1] if path.parent == IMAGENET else None)


@of_name(DYNAMIC)
def test_a_dynamic_config_is_its_dense_twin_and_the_sparse_keys(path: Path):
    dynamic, dense = flat(path), flat(twin(path))
    differing = {key for key in dynamic.keys() | dense.keys() if dynamic.get(key) != dense.get(key)}
    expected = SPARSE_KEYS | (paper_keys(path) if path.parent == IMAGENET else set())
    if dense["model.backbone.type"].startswith("mmsparse."):
        expected.remove("model.backbone.type")
    if "dynamic-r50_" in path.stem and "_ade20k" in path.stem:
        expected.add("model.backbone.deep_stem")
    if "_whole-" in path.stem:
        if "dynamic-r50_" not in path.stem:  # whose default places are in all stages
            expected.add("model.backbone.sparsity.places")
        expected |= {f"model.{part}.{key}" for part in whole_parts(path) for key in ("type", "sparsity.keep_ratio")}
        if "retinanet" in path.stem:
            expected |= {"model.bbox_head.route_predictors"}
    assert differing == expected


@of_name([path for path in PATHS if "convnext-" in path.stem and path not in RIVALS])
def test_the_letter_in_a_name_is_the_arch(path: Path):
    cfg = flat(path)
    letter = re.search(r"convnext-([a-z])_", path.stem)[1]
    arch, num_layers = {"t": ("tiny", 6), "s": ("small", 12), "b": ("base", 12)}[letter]
    assert cfg["model.backbone.arch"] == arch
    assert f"/convnext-{arch}_" in (cfg.get("model.backbone.init_cfg.checkpoint") or cfg["load_from"])
    if path.parent != IMAGENET:  # which has no layer-wise decay
        assert cfg["optim_wrapper.paramwise_cfg.num_layers"] == num_layers


@of_name([path for path in PATHS if "swin-" in path.stem and path not in RIVALS])
def test_the_letter_in_a_name_is_the_size_of_swin(path: Path):
    cfg = flat(path)
    letter = re.search(r"swin-([a-z])_", path.stem)[1]
    name, width, third, heads = {
        "t": ("tiny", 96, 6, 3),
        "s": ("small", 96, 18, 3),
        "b": ("base", 128, 18, 4),
    }[letter]
    assert f"/swin_{name}_patch4_window7_224" in (cfg.get("model.backbone.init_cfg.checkpoint") or cfg["load_from"])
    assert cfg["model.backbone.embed_dims"] == width
    assert cfg["model.backbone.depths"] == [2, 2, third, 2]
    assert cfg["model.backbone.num_heads"] == [heads, 2 * heads, 4 * heads, 8 * heads]


@of_name([path for path in PATHS if re.search(r"_8xb\d-|_coco$", path.stem)])
def test_the_batch_is_the_one_of_the_name(path: Path):
    per_gpu = int((re.search(r"_8xb(\d)-", path.stem) or "22")[1])
    assert flat(path)["train_dataloader.batch_size"] == per_gpu
    assert flat(path)["auto_scale_lr.base_batch_size"] == 8 * per_gpu


@of_name([path for path in PATHS if re.search(r"vit-[sb]_", path.stem)])
def test_the_letter_in_a_name_is_the_size_of_vit(path: Path):
    cfg = flat(path)
    arch, width, heads = {"s": ("small", 384, 6), "b": ("base", 768, 12)}[re.search(r"vit-([sb])_", path.stem)[1]]
    assert cfg["model.backbone.arch"] == f"deit-{arch}"
    assert f"/deit-{arch}_" in cfg["model.backbone.init_cfg.checkpoint"]
    assert cfg.get("model.decode_head.num_heads", heads) == heads
    for key in ("model.neck.in_channels", "model.decode_head.in_channels", "model.auxiliary_head.in_channels"):
        value = cfg.get(key, width)
        assert set(value if isinstance(value, list) else [value]) == {width}


@of_name(sorted(IMAGENET.glob("*.py")))
def test_the_papers_settings_of_imagenet(path: Path):
    cfg = flat(path)
    hierarchical = "deit-" not in path.stem
    epochs, rate, warmup, batch = (120, 4e-3, 20, 4096) if hierarchical else (30, 1e-3, 5, 1024)
    gpus, per_gpu, named_epochs = map(int, re.search(r"_(\d+)xb(\d+)-(\d+)e_in1k", path.stem).groups())
    assert gpus * per_gpu == cfg["auto_scale_lr.base_batch_size"] == batch
    assert cfg["train_dataloader.batch_size"] == per_gpu
    assert cfg["train_cfg.max_epochs"] == named_epochs == epochs
    assert cfg["optim_wrapper.optimizer.lr"] == rate
    assert [(s["begin"], s["end"]) for s in cfg["param_scheduler"]] == [(0, warmup), (warmup, epochs)]
    big, drop = "-b_" in path.stem, cfg.get("model.backbone.drop_path_rate", 0.0)
    assert drop == ((0.5 if big else 0.2) if hierarchical else (0.2 if big else 0.0))
    if path in DYNAMIC:
        assert cfg["optim_wrapper.paramwise_cfg.backbone_mult"] == (0.2 if hierarchical else 0.01)
        assert cfg["optim_wrapper.paramwise_cfg.freeze_epochs"] == 5
        assert cfg["model.backbone.sparsity.selector.type"] == "GumbelSelector"
        assert cfg["model.backbone.sparsity.detach"] is False


STOCK_TWINS = {
    "mask-rcnn_swin-t_fpn_amp-ms-crop-3x_coco": "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "mask-rcnn_swin-s_fpn_amp-ms-crop-3x_coco": "mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py",
    "retinanet_swin-t_fpn_1x_coco": "mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py",
    **{
        f"swin-{letter}_upernet_8xb2-160k_ade20k-512x512": (
            f"mmseg::swin/swin-{name}-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py"
        )
        for letter, name in (("t", "tiny"), ("s", "small"), ("b", "base"))
    },
}


@pytest.mark.parametrize("ours, theirs", STOCK_TWINS.items(), ids=STOCK_TWINS)
def test_a_dense_swin_config_is_the_stock_one(ours: str, theirs: str):
    from mmdet.models import SwinTransformer

    from mmsparse import compat

    compat.prepare()
    mine, stock = dict(flat(SWIN / f"{ours}.py")), dict(_leaves(get_config(theirs).to_dict()))

    for cfg in (mine, stock):  # the stacks name the same file on other hosts
        cfg["model.backbone.init_cfg.checkpoint"] = cfg["model.backbone.init_cfg.checkpoint"].rpartition("/")[2]
    defaults = {
        f"model.backbone.{name}": parameter.default
        for name, parameter in inspect.signature(SwinTransformer.__init__).parameters.items()
    }
    parts = ("model.", "optim_wrapper.", "param_scheduler", "train_cfg.", "train_dataloader.", "test_dataloader.")
    differing = {
        key: (mine.get(key), stock.get(key))
        for key in {key for key in mine.keys() | stock.keys() if key.startswith(parts)}
        if mine.get(key, defaults.get(key)) != stock.get(key, defaults.get(key))
    }
    allowed = {"model.backbone.type"} | {f"model.backbone.{key}" for key in ("act_cfg.type", "norm_cfg.type")}
    allowed.add("model.backbone.norm_cfg.requires_grad")  # True, as without the key
    assert {key: pair for key, pair in differing.items() if key not in allowed} == {}


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
    parts = whole_parts(path) if "_whole-" in path.stem else ["backbone"]
    assert {key.rpartition(".router.")[0] for key in loaded.missing_keys} == set(parts)

    ratios = (0.5, 0.5, 0.5, 0.3, 0.1, 0.5) if "_whole-" in path.stem else (0.7, 0.5, 0.3)
    assert dynamic.backbone.router.keep_ratio == ratios
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
