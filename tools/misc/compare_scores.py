"""What should teach the scores? Fine-tune a routed config from its dense twin with each kind, at one budget.

Each kind is one training; the trained weights are evaluated at several shares of the dense arithmetic. Finished ones
are skipped and interrupted ones resumed, so the command can be given again until all are done.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from tqdm import tqdm

from mmsparse.analysis import fit_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.checkpoints import check_checkpoint
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import read_pictures
from mmsparse.cli.launch import build_runner, choose_start, prepare_work_dir, quiet
from mmsparse.cli.main import run_script
from mmsparse.cli.preflight import check_training
from mmsparse.trust import add_trust, trust_checkpoints

# What each kind changes: keys of every `sparsity`, and the weight of the scores' supervision by labels.
KINDS: dict[str, tuple[dict[str, Any], float]] = {
    "gate": (dict(learn="gate"), 0.0),
    "gain": (dict(learn="gain"), 0.0),
    "stake": (dict(learn="stake"), 0.0),
    "labels": (dict(learn="gate"), 1.0),
    "labels+gain": (dict(learn="gain"), 1.0),
    "labels+stake": (dict(learn="stake"), 1.0),
    "norm": (dict(scorer=dict(type="FeatureNormScorer")), 0.0),
    "random": (dict(scorer=dict(type="RandomScorer")), 0.0),
}
DENSE = "dense"  # the twin, trained on for as long, by nothing but its own losses
OF_ROUTED = ("mmsparse.SparsityHook", "mmsparse.TeacherHook")
METRICS = ("coco/bbox_mAP", "coco/bbox_AR@100", "mIoU", "mAcc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a routed config; it is trained as it says, from its load_from")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, DENSE], default=[*KINDS, DENSE])
    parser.add_argument("--macs", type=float, default=0.6, help="share of the dense arithmetic to train at")
    parser.add_argument("--at", type=float, nargs="+", default=[0.75, 0.6, 0.45], help="shares to evaluate at")
    parser.add_argument("--out-dir", help="trainings and results.json; default ./work_dirs/scores_<config name>")
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    out = Path(args.out_dir or f"work_dirs/scores_{Path(args.config).stem}")
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    for kind in tqdm([kind for kind in args.kinds if kind not in results], desc="trainings"):
        results[kind] = train(args, kind, out / kind)
        file.write_text(json.dumps(results, indent=1))
    print(table(results))


def train(args: argparse.Namespace, kind: str, work_dir: Path) -> dict[str, dict[str, float]]:
    """Metrics by the share of the dense arithmetic."""
    cfg = open_config(args.config, args.cfg_options)
    check_checkpoint(cfg.get("load_from") or "", "load_from of the config")
    as_kind(cfg, kind)
    prepare_work_dir(cfg, str(work_dir), args.config)
    cfg.visualizer.name = kind  # of one name there is one a process, which would write all losses to the first folder
    choose_start(cfg, "auto", None)
    built = check_training(cfg)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if cfg.test_evaluator.type == "CocoMetric":
        cfg.test_evaluator.metric_items = ["mAP", "AR@100"]
    with quiet():
        runner = build_runner(cfg, built)
        set_budget(runner, cfg, args.macs, kind)
        runner.train()
        found = {}
        for share in args.at if kind != DENSE else [1.0]:
            set_budget(runner, cfg, share, kind)
            found[str(share)] = {name: float(value) for name, value in runner.test().items() if name in METRICS}
    return found


def as_kind(cfg: Config, kind: str) -> None:
    if kind == DENSE:
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type not in OF_ROUTED]
        for part in routed_parts(cfg.model):
            part.sparsity = None
        return
    hook = next(hook for hook in cfg.custom_hooks if hook.type == "mmsparse.SparsityHook")
    changes, hook.score_weight = KINDS[kind]
    for part in routed_parts(cfg.model):
        for key, value in changes.items():
            part.sparsity[key] = value  # the scorer as a whole; update would merge


def routed_parts(cfg: Any) -> Iterator[ConfigDict]:
    if isinstance(cfg, ConfigDict):
        if cfg.get("sparsity") is not None:
            yield cfg
        for value in cfg.values():
            yield from routed_parts(value)


def set_budget(runner: Runner, cfg: Config, share: float, kind: str) -> None:
    if kind == DENSE:
        return
    model = runner.model.eval()
    batch = prepare_batch(model, read_pictures(cfg, 1))
    fit_keep_ratio(model, share, lambda: predict(model, batch))


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """One row a kind and share."""
    names = [name for name in METRICS if any(name in m for shares in results.values() for m in shares.values())]
    lines = [f"{'scores':<14}{'MACs':>6}" + "".join(f"{name:>16}" for name in names)]
    for kind, shares in results.items():
        for share, metrics in shares.items():
            values = "".join(f"{metrics.get(name, float('nan')):16.4f}" for name in names)
            lines.append(f"{kind:<14}{float(share):>6.0%}{values}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
