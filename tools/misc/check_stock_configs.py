"""Make every installed stock config with a ConvNeXt, Swin or ViT dynamic: does it build, train a step and predict?

With --whole, every installed config whose neck or dense head can be routed, whatever its backbone. Each config runs in
a process of its own, with its real network, on two small generated pictures; configs of one and the same model run
once. Those that passed or have a stated reason are kept in --out and skipped the next time. Exit status 1 if something
fails without one.
"""

import argparse
import fnmatch
import importlib.util
import json
import logging
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from mmsparse import apis, compat, sparsify
from mmsparse.cli.main import run_script
from mmsparse.configs import read_config, without_pretrained
from mmsparse.rewriting.parts import parts_to_route
from mmsparse.sparsity import new_prefixes, num_keep

FAMILIES = (
    *("ConvNeXt", "SwinTransformer", "VisionTransformer", "MAE", "BEiT"),
    *("ResNet", "ResNeXt", "ResNetV1c", "ResNetV1d"),
)
ENCODERS = ("backbone", "image_encoder")
PASSES, REASON, FAILS = "passes", "reason", "FAILS"
# a process that has imported the libraries once; each config gets a copy of it
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mmdet.models", "mmseg.models", "mmpretrain.models", "mmsparse.models", "mmsparse.engine"]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="which ones, such as 'mmseg::swin/*'")
    parser.add_argument("--whole", action="store_true", help="route necks and heads, too; take all configs with such")
    parser.add_argument("--out", default="work_dirs/stock_configs.json", help="where results are kept")
    parser.add_argument("--again", action="store_true", help="run finished ones anew")
    parser.add_argument("--list", action="store_true", help="print the configs and stop")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one config")


def main(args: argparse.Namespace) -> int:
    compat.prepare()
    configs = stock_configs(args.only, args.whole)
    if args.list:
        print("\n".join(configs))
        return 0
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(out.read_text()) if out.is_file() else {}
    todo = [n for n in configs if args.again or results.get(n, {}).get("status", FAILS) == FAILS]
    first: dict[str, str] = {}  # model -> the config that was run with it
    for name in (bar := tqdm(todo)):
        bar.set_description(name)
        try:
            cfg = read_config(name)
            twin = first.setdefault(json.dumps(cfg.model, sort_keys=True, default=str) + str(cfg.optim_wrapper), name)
            if twin != name:
                results[name] = dict(results[twin], why=f"as {twin}", seconds=0)
            elif reason := stated_reason(cfg, args.whole):
                results[name] = dict(status=REASON, why=reason, seconds=0)
            else:
                results[name] = run(name, args.whole, args.timeout)
        except Exception as error:
            results[name] = dict(status=FAILS, why=describe(error), seconds=0)
        out.write_text(json.dumps(results, indent=1))
    results = {name: results[name] for name in configs}
    for name, result in results.items():
        print(f"{result['status']:<7} {result['seconds']:>4} s  {name}  {result['why']}")
    counts = Counter(result["status"] for result in results.values())
    print(f"{counts[PASSES]} pass, {counts[REASON]} have a stated reason, {counts[FAILS]} fail; of {len(results)}")
    return 1 if counts[FAILS] else 0


def stock_configs(globs: list[str], whole: bool) -> list[str]:
    """Names (lib::path) of the configs that hold a backbone of one of the families, children included.

    Of the ``whole`` network those that hold a neck or a head that can be routed.
    """
    names = []
    for lib in ("mmdet", "mmseg"):
        root = Path(importlib.util.find_spec(lib).submodule_search_locations[0]) / ".mim" / "configs"
        paths = sorted(path for path in root.rglob("*.py") if "_base_" not in path.parts)
        named = {f"{lib}::{path.relative_to(root)}": path for path in paths}
        named = {name: path for name, path in named.items() if any(fnmatch.fnmatch(name, glob) for glob in globs)}
        for name, path in tqdm(named.items(), desc=f"reading the configs of {lib}", leave=False):
            try:
                cfg = Config.fromfile(path)
            except FileNotFoundError:  # a base that the library did not ship: nothing can be said of it
                continue
            if whole and isinstance(cfg.get("model"), dict):
                fits = any(parts_to_route(cfg.model, cfg.get("default_scope")).values())
            else:
                fits = any(kind in FAMILIES for kind in encoders(cfg.get("model")))
            if fits:
                names.append(name)
    return names


def encoders(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in ENCODERS and isinstance(value, dict):
                yield str(value.get("type")).rpartition(".")[2]
            yield from encoders(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from encoders(value)


def run(name: str, whole: bool, timeout: int) -> dict[str, Any]:
    start = time.perf_counter()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=answer, args=(name, whole, theirs))
    process.start()
    theirs.close()
    result = dict(status=FAILS, why=f"not finished after {timeout} s")
    if ours.poll(timeout):
        try:
            result = ours.recv()
        except EOFError:
            process.join()
            result = dict(status=FAILS, why=f"the process ended with exit code {process.exitcode}")
    process.kill()
    process.join()
    return dict(**result, seconds=round(time.perf_counter() - start))


def answer(name: str, whole: bool, pipe: Connection) -> None:
    """In the process of one config. What it prints is of no use."""
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        compat.prepare()
        try:
            result = check(name, whole)
        except Exception as error:
            result = dict(status=FAILS, why=describe(error))
            try:
                check_dense(name)
            except Exception as own:
                result = dict(status=REASON, why=f"the dense config fails here as well: {describe(own)}")
    pipe.send(result)


def describe(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {str(error) or place.line} ({Path(place.filename).name}:{place.lineno})"
    return " ".join(text.split())[:500]


def dynamic_twin(cfg: Config, whole: bool) -> Config:
    parts = parts_to_route(cfg.model, cfg.get("default_scope")) if whole else {}
    return sparsify(cfg, 0.7, **parts, hook=dict(anneal=None))


def stated_reason(cfg: Config, whole: bool) -> str | None:
    """Why a config cannot be tried here, in a sentence that is true."""
    try:
        dynamic_twin(cfg, whole)
    except ValueError as error:
        return str(error)
    except TypeError:  # running it shows whether the dense one fails as well
        return None
    if "language_model" in cfg.model and importlib.util.find_spec("transformers") is None:
        return "its language model needs the package transformers, which is not installed"
    return None


def check(name: str, whole: bool) -> dict[str, str]:
    torch.manual_seed(0)
    cfg = dynamic_twin(read_config(name), whole)
    init_default_scope(cfg.default_scope)
    try:
        model = build(cfg)
    except ValueError as error:
        if "can be routed" in str(error):
            return dict(status=REASON, why=str(error))
        raise
    keep = train_one_step(model, cfg)
    predict(model, cfg)
    return dict(status=PASSES, why=f"{keep} decisions")


def check_dense(name: str) -> None:
    """The same without anything of ours."""
    cfg = read_config(name)
    init_default_scope(cfg.default_scope)
    model = build(cfg)
    optimizer = build_optim_wrapper(model, fitted(cfg.optim_wrapper))
    begin_training()
    model.train()
    model.train_step(pictures(cfg), optimizer)
    model.eval()
    with torch.no_grad():
        model.test_step(pictures(cfg, 1))


def build(cfg: Config) -> nn.Module:
    without_pretrained(cfg.model)
    preprocessor = cfg.model.data_preprocessor
    preprocessor.pop("batch_augments", None)  # they enlarge the pictures
    if preprocessor.get("size"):
        preprocessor.size = (size_of(cfg), size_of(cfg))
    fewer_regions(cfg.model.get("train_cfg"))
    fewer_regions(cfg.model.get("test_cfg"))
    model = MODELS.build(cfg.model)
    model.init_weights()
    for module in model.modules():  # a residual branch that begins at zero buys nothing, and nothing is learned from it
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)
    return revert_sync_batchnorm(model)


def fewer_regions(cfg: Any) -> None:
    """Two-stage heads run on thousands of regions a step; a few dozen do for a test."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in ("max_per_img", "num") and isinstance(value, int):
                cfg[key] = min(value, 32)
            else:
                fewer_regions(value)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            fewer_regions(value)


def train_one_step(model: nn.Module, cfg: Config) -> int:
    """One step of the config's own optimizer; losses must be finite and every new parameter must learn."""
    hooks = [hook for hook in cfg.custom_hooks if hook.type == "mmsparse.SparsityHook"]
    HOOKS.build(hooks[0]).attach(model)
    optimizer = build_optim_wrapper(model, fitted(cfg.optim_wrapper))
    prefixes = new_prefixes(model)
    new = {name: p for name, p in model.named_parameters() if name.startswith(prefixes) and p.requires_grad}
    before = {name: p.detach().clone() for name, p in new.items()}
    learning: set[str] = set()
    for name, p in new.items():  # the step itself forgets the gradients
        p.register_post_accumulate_grad_hook(lambda _, name=name: learning.add(name))
    begin_training()
    model.train()
    log = model.train_step(pictures(cfg), optimizer)
    wrong = [name for name, value in log.items() if not torch.as_tensor(value).isfinite().all()]
    assert not wrong, f"losses are not finite: {wrong}"
    assert "loss_sparsity" in log, f"no loss_sparsity in {sorted(log)}"
    untouched = sorted(new.keys() - learning)
    assert not untouched, f"{len(untouched)} new parameters without a gradient, such as {untouched[:2]}"
    assert any(not torch.equal(p, before[name]) for name, p in new.items()), "no new parameter has moved"
    return len(apis.find_deciders(model))


def begin_training() -> None:
    """Some heads ask how far the training is."""
    for counter in ("iter", "epoch"):
        MessageHub.get_current_instance().update_info(counter, 0)


def fitted(optim_wrapper: Any) -> Any:
    """Without mixed precision, which wants a GPU."""
    optim_wrapper.type = "OptimWrapper"
    optim_wrapper.pop("loss_scale", None)
    optim_wrapper.pop("dtype", None)
    return optim_wrapper


def predict(model: nn.Module, cfg: Config) -> None:
    """One prediction of one picture, as some heads take no more; every place must keep its exact count."""
    model.eval()
    with torch.no_grad(), apis.record_selections(model) as taken:
        samples = model.test_step(pictures(cfg, 1))
    frames = [frame for sample in samples for frame in getattr(sample, "video_data_samples", [sample])]
    assert frames and all(any("pred" in key for key in frame.all_keys()) for frame in frames), "nothing is predicted"
    budget = apis.get_keep_ratio(model)
    undecided = sorted(budget.keys() - {place for place, _ in taken})
    assert not undecided, f"nothing was decided at {undecided}"
    for place, selection in taken:
        expected = num_keep(budget[place], selection.keep_mask.shape[1])
        assert set(selection.num_keep) == {expected}, f"{place} keeps {selection.num_keep}, not {expected}"


def size_of(cfg: Config) -> int:
    """Side of the pictures; those who choose hundreds of queries among the locations need as many."""
    if cfg.model.get("num_queries", 0) >= 300:
        return 256
    wide = any(kind in str(cfg.model) for kind in ("'DCN", "'SAC'"))  # kernels that must fit into the smallest map
    return 128 if wide else 64


def pictures(cfg: Config, count: int = 2) -> dict[str, Any]:
    """Pictures with boxes, masks and label maps."""
    if cfg.default_scope == "mmseg":
        return segmentation_pictures(cfg, count)
    size, masks = size_of(cfg), loads_masks(cfg.train_dataloader)
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    if cfg.model.data_preprocessor.type == "TrackDataPreprocessor":
        return demo_track_inputs(image_shapes=(3, size, size), num_classes=2, with_mask=masks)
    shapes = [(3, size, size)] * count
    batch = demo_mm_inputs(count, shapes, num_items=[4] * count, num_classes=10, with_mask=masks, with_semantic=masks)
    for sample, proposals in zip(batch["data_samples"], demo_mm_proposals(shapes, 8)):
        sample.gt_instances.labels %= min(classes(cfg.model), default=10)
        if "rpn_head" not in cfg.model:
            sample.proposals = proposals  # from the data set; an RPN would not be asked
    return batch


def classes(tree: Any) -> Iterator[int]:
    """How many classes each head knows."""
    if isinstance(tree, dict):
        if isinstance(tree.get("num_classes"), int):
            yield tree["num_classes"]
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from classes(value)


def loads_masks(tree: Any) -> bool:
    """Whether a data set's pipeline loads masks: a detector of boxes may not know what to do with them."""
    if isinstance(tree, dict):
        by_default = tree.get("type") == "LoadPanopticAnnotations"
        return tree.get("with_mask", by_default) is True or any(loads_masks(value) for value in tree.values())
    return isinstance(tree, list | tuple) and any(loads_masks(value) for value in tree)


def segmentation_pictures(cfg: Config, count: int) -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    shape = (size_of(cfg), size_of(cfg))
    batch = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *shape), generator=generator))
        image = torch.randint(0, 256, (channels(cfg), *shape), generator=generator, dtype=torch.uint8)
        batch.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(batch)


def channels(cfg: Config) -> int:
    return len(cfg.model.data_preprocessor.get("mean") or (0, 0, 0))


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, main))
