"""Make every installed stock config dynamic: does it build, train a step and predict, and what is left of its MACs?

Backbone, neck and heads are routed where they can be. Each config runs in a process of its own, with its real network,
on two small generated pictures; then multiply-accumulates are counted on one of 256x256 (or more, where a network needs
it, or its windows do not fill one) with half kept at every place, beside those of the dense network. There are as many
detections as there may be, and regions, queries and cells of grids for each pixel as in a usual picture; what grows
with pixels times pixels, or times queries, weighs less than in a larger one. Configs of one and the same model, but for
the number of classes and the weights it begins with, run once. Those that passed or have a stated reason are kept in
--out and skipped the next time. Exit status 1 if something fails without one.
"""

import argparse
import fnmatch
import importlib.util
import json
import logging
import math
import multiprocessing
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Mapping
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from stock_pictures import classes, pictures, size_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from mmsparse import apis, compat
from mmsparse.analysis import count_macs
from mmsparse.cli.main import run_script
from mmsparse.configs import read_config, without_pretrained
from mmsparse.files import write_whole
from mmsparse.rewriting import parts_that_fit, sparsify
from mmsparse.sparsity import new_prefixes, num_keep

PASSES, REASON, FAILS = "passes", "reason", "FAILS"
DENSE_FAILS = "the dense config fails here as well"
KEPT, COUNTED, ENOUGH = 0.5, 256, 0.8  # of every place; side of the picture that is counted; share of dense MACs
USUAL = dict(mmdet=800 * 1344, mmseg=512 * 512)  # pixels of a picture
# a process that has imported the libraries once; each config gets a copy of it
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mmdet.models", "mmseg.models", "mmpretrain.models", "mmsparse.models", "mmsparse.engine"]
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", default=["*"], metavar="GLOB", help="which ones, such as 'mmseg::swin/*'")
    parser.add_argument("--sample", type=int, help="so many of them, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="work_dirs/stock_configs.json", help="where results are kept")
    parser.add_argument("--again", action="store_true", help="run finished ones anew")
    parser.add_argument("--list", action="store_true", help="print the configs and stop")
    parser.add_argument("--timeout", type=int, default=900, help="seconds for one config")


def main(args: argparse.Namespace) -> int:
    compat.prepare()
    configs = stock_configs(args.only)
    if args.sample is not None:
        configs = sorted(random.Random(args.seed).sample(configs, min(args.sample, len(configs))))
    if args.list:
        print("\n".join(configs))
        return 0
    out = Path(args.out)
    results = json.loads(out.read_text()) if out.is_file() else {}
    todo = [n for n in configs if args.again or results.get(n, {}).get("status", FAILS) == FAILS]
    first: dict[str, str] = {}  # model -> the config that was run with it
    for name in (bar := tqdm(todo)):
        bar.set_description(name)
        try:
            cfg = read_config(name)
            twin = first.setdefault(kind_of(cfg), name)
            results[name] = run(name, args.timeout) if twin == name else dict(results[twin], twin=twin, seconds=0)
        except Exception as error:
            results[name] = dict(status=FAILS, why=describe(error), seconds=0)
        write_whole(json.dumps(results, indent=1), out)
    results = {name: results[name] for name in configs}
    for name, result in results.items():
        print(f"{result['status']:<7} {left_of(result):>5} {result['seconds']:>4} s  {name}  {result['why']}")
    print(summary(results.values()))
    return 1 if any(result["status"] == FAILS for result in results.values()) else 0


def kind_of(cfg: Config) -> str:
    """The same for configs of one model and optimizer."""
    optimizer = cfg.get("optim_wrapper") or {}
    rule = optimizer.get("constructor"), optimizer.get("optimizer", {}).get("type"), optimizer.get("clip_grad")
    return json.dumps([_essence(cfg.model), *rule], sort_keys=True, default=str)


def _essence(node: Any) -> Any:
    if isinstance(node, Mapping):
        names = ("num_classes", "init_cfg", "pretrained")
        return {name: _essence(value) for name, value in node.items() if name not in names}
    return [_essence(value) for value in node] if isinstance(node, list | tuple) else node


def left_of(result: Mapping[str, Any]) -> str:
    return f"{result['left']:.0%}" if "left" in result else "-"


def summary(results: Collection[Mapping[str, Any]]) -> str:
    """How many of those whose dense form runs are routed, and what is left of their arithmetic."""
    by = {status: [r for r in results if r["status"] == status] for status in (PASSES, REASON, FAILS)}
    broken = [r for r in by[REASON] if r["why"].startswith(DENSE_FAILS)]
    runs, few = len(results) - len(broken), [r for r in by[PASSES] if r["left"] <= ENOUGH]
    return (
        f"{len(results)} configs; the dense form of {len(broken)} does not run here, of {runs} it does. Of these\n"
        f"{len(by[PASSES])} train a step and predict when they are routed, {len(few)} of them "
        f"({len(few) / max(runs, 1):.0%}) with at most {ENOUGH:.0%} of their MACs at keep {KEPT};\n"
        f"{len(by[REASON]) - len(broken)} cannot be routed and say why; {len(by[FAILS])} fail."
    )


def stock_configs(globs: list[str]) -> list[str]:
    """Names (lib::path) of the configs that hold a model, children included."""
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
            if isinstance(cfg.get("model"), dict):
                names.append(name)
    return names


def run(name: str, timeout: int) -> dict[str, Any]:
    start = time.perf_counter()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=answer, args=(name, theirs))
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


def answer(name: str, pipe: Connection) -> None:
    """In the process of one config. What it prints is of no use."""
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        compat.prepare()
        try:
            result = check(name)
        except Exception as error:
            result = dict(status=FAILS, why=describe(error))
        if result["status"] != PASSES:
            try:
                check_dense(name)
            except Exception as own:
                result = dict(status=REASON, why=f"{DENSE_FAILS}: {describe(own)}")
    pipe.send(result)


def describe(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {str(error) or place.line} ({Path(place.filename).name}:{place.lineno})"
    return " ".join(text.split())[:500]


def dynamic_twin(cfg: Config) -> Config:
    """With every part routed that can be."""
    return sparsify(cfg, 0.7, **parts_that_fit(cfg), hook=dict(anneal=None))


def check(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    cfg = read_config(name)
    try:
        cfg = dynamic_twin(cfg)
    except ValueError as error:
        return dict(status=REASON, why=str(error))
    init_default_scope(cfg.default_scope)
    model = build(cfg)
    left = share_of_macs(model.eval(), cfg)  # as it begins: after a step a network may find nothing, so does nothing
    places = train_one_step(model, cfg)
    predict(model, cfg)
    return dict(status=PASSES, why=f"{places} decisions", left=round(left, 3))


def share_of_macs(model: nn.Module, cfg: Config) -> float:
    """Of the dense network's, at one ratio at every place."""
    dials, counts = apis.find_dials(model), []
    own = [dial.keep_ratio for dial in dials]
    for ratio in (KEPT, 1.0):
        for dial in dials:
            dial.keep_ratio = ratio
        inputs = pictures(cfg, 1, counted_side(cfg))
        counts.append(count_macs(model, lambda inputs=inputs: model.test_step(inputs)).total)
    for dial, ratio in zip(dials, own, strict=True):
        dial.keep_ratio = ratio
    return counts[0] / counts[1]


def counted_side(cfg: Config) -> int:
    """Of the picture that is counted: windows of a Swin fill its maps, as they nearly do in larger pictures."""
    backbone = cfg.model.get("backbone") or {}
    step = 32 * backbone.get("window_size", 7) if "Swin" in str(backbone.get("type")) else 1
    return step * math.ceil(max(COUNTED, size_of(cfg)) / step)


def check_dense(name: str) -> None:
    """The same without anything of ours."""
    cfg = read_config(name)
    init_default_scope(cfg.default_scope)
    model = build(cfg)
    optimizer = build_optim_wrapper(model, fitted(cfg.optim_wrapper))
    step(model, cfg, optimizer)
    model.eval()
    with torch.no_grad():
        model.test_step(pictures(cfg, 1))


def build(cfg: Config) -> nn.Module:
    without_pretrained(cfg.model)
    preprocessor = cfg.model.data_preprocessor
    preprocessor.pop("batch_augments", None)  # they enlarge the pictures
    if preprocessor.get("size"):
        preprocessor.size = (size_of(cfg), size_of(cfg))
    few_classes = max(classes(cfg.model), default=0) < 2000  # of more, boxes would be compared for hours
    fewer_regions(cfg.model, USUAL[cfg.default_scope] / counted_side(cfg) ** 2, all_doubts=few_classes)
    model = MODELS.build(cfg.model)
    model.init_weights()
    for module in model.modules():  # a residual branch that begins at zero buys nothing, and nothing is learned from it
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.any():
            nn.init.constant_(module.weight, 0.1)  # and not so much that deep networks overflow
    return revert_sync_batchnorm(model)


def fewer_regions(cfg: Any, times: float, all_doubts: bool) -> None:
    """As many regions and queries for each pixel of the small picture as of a usual one, and always as many.

    Random weights are unsure of all of them, and how many overlap is chance: none counts as overlapping.
    """
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in ("max_per_img", "num", "num_queries", "num_proposals") and isinstance(value, int) and value > 0:
                cfg[key] = max(4, round(value / times))
            elif key == "num_grids":
                cfg[key] = [max(1, round(number / times**0.5)) for number in value]
            elif key == "score_thr":
                cfg[key] = 0.0 if all_doubts else 1.0
            elif key == "iou_threshold":
                cfg[key] = 1.0
            else:
                fewer_regions(value, times, all_doubts)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            fewer_regions(value, times, all_doubts)


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
    log = step(model, cfg, optimizer)
    assert "loss_sparsity" in log, f"no loss_sparsity in {sorted(log)}"
    untouched = sorted(new.keys() - learning)
    assert not untouched, f"{len(untouched)} new parameters without a gradient, such as {untouched[:2]}"
    assert any(not torch.equal(p, before[name]) for name, p in new.items()), "no new parameter has moved"
    return len(apis.find_deciders(model))


def step(model: nn.Module, cfg: Config, optimizer: Any) -> dict[str, Any]:
    """Of training; what it logs."""
    for counter in ("iter", "epoch"):  # some heads ask how far the training is
        MessageHub.get_current_instance().update_info(counter, 0)
    model.train()
    log = model.train_step(pictures(cfg), optimizer)
    wrong = [name for name, value in log.items() if not torch.as_tensor(value).isfinite().all()]
    assert not wrong, f"losses are not finite: {wrong}"
    return log


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
    deciders = apis.find_deciders(model)
    # boxes are asked of all regions; of what is found in them there may be nothing
    regions = {d.name for d in deciders if d.of_regions and not d.name.startswith("bbox_head")}
    undecided = sorted(budget.keys() - regions - {place for place, _ in taken})
    assert not undecided, f"nothing was decided at {undecided}"
    for place, selection in taken:
        expected = num_keep(budget[place], selection.keep_mask.shape[1])
        assert set(selection.num_keep) == {expected}, f"{place} keeps {selection.num_keep}, not {expected}"


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, main))
