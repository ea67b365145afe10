"""A metric against arithmetic, of one checkpoint: what each budget costs, without training for it.

A dense config is routed for that without anything to train: the features' norm chooses, and what is not chosen keeps
its value, or what a 1x1 convolution makes of it. How much that loses says whether training is worth its while.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from tqdm import tqdm

from mmsparse.analysis import count_macs, fit_keep_ratio
from mmsparse.apis import dense_twin, find_dials, get_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_plain, read_pictures
from mmsparse.cli.choosing import METRICS, numbers_of
from mmsparse.cli.launch import build_runner, check_writable, prepare_work_dir, quiet
from mmsparse.cli.numbers import add_json
from mmsparse.cli.preflight import check_testing
from mmsparse.files import write_whole
from mmsparse.rewriting import parts_that_fit, sparsify
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.curve import draw_curve

DENSE = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a routed one, or a dense one, which is then routed without training")
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--macs", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5], help="shares of the dense arithmetic"
    )
    parser.add_argument("--out", help="folder for curve.json and curve.png; default ./work_dirs/<config name>/curve")
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    wrong = [share for share in args.macs if not 0.0 < share < 1.0]
    if wrong:
        raise ValueError(f"Argument `macs`: expected shares in (0, 1) of the dense arithmetic, but got {wrong}")
    cfg = open_config(args.config, args.cfg_options)
    out = Path(args.out or Path("work_dirs") / Path(args.config).stem / "curve")
    check_writable(out, "out")
    trained = bool(find_dials(build_plain(cfg)))
    if not trained:
        cfg = routed_without_training(cfg)
    prepare_work_dir(cfg, str(out), args.config)
    cfg.load_from, cfg.resume = None, False
    found = curve(cfg, args.checkpoint, sorted(args.macs, reverse=True))
    print(f"{args.config}{'' if trained else ', routed without training'}\n{table(found)}")
    write_whole(json.dumps(found, indent=1), out / "curve.json")
    draw_curve(out / "curve.png", found)
    print(f"{out / 'curve.json'}\n{out / 'curve.png'}")
    return {"curve": found}


def routed_without_training(cfg: Config) -> Config:
    """With every part routed that can be."""
    return sparsify(cfg, 0.5, **parts_that_fit(cfg), train=False)


def curve(cfg: Config, checkpoint: str, shares: list[float]) -> list[dict[str, Any]]:
    """Metrics of the test set, the dense network's first; a share that no budget reaches has none."""
    built = check_testing(cfg, checkpoint, None)
    with quiet():
        runner = build_runner(cfg, built)
    model = runner.model.eval()
    batch = prepare_batch(model, read_pictures(cfg, 1))
    own = {dial: dial.keep_ratio for dial in find_dials(model)}

    def macs() -> int:
        return count_macs(model, lambda: predict(model, batch)).total

    def metrics() -> dict[str, float]:
        with quiet():
            return numbers_of(runner.test())

    bar = tqdm(total=len(shares) + 1, desc="evaluating", leave=False)
    with dense_twin(model):
        dense = macs()
        found = [dict(wanted=DENSE, macs=dense, keep_ratio={}, metrics=metrics())]
    bar.update()
    if not found[0]["metrics"]:
        bar.close()
        raise ValueError(
            f"Argument `checkpoint`: the dense network finds nothing in the test set, or its evaluator gives none of "
            f"{METRICS}. Train it first"
        )
    for share in shares:
        for dial, ratio in own.items():
            dial.keep_ratio = ratio
        try:
            fit_keep_ratio(model, share, lambda: predict(model, batch))
        except ValueError as error:  # it says what can be reached
            found.append(dict(wanted=share, why=str(error)))
        else:
            ratios = {place: round(ratio, 4) for place, ratio in get_keep_ratio(model).items()}
            found.append(dict(wanted=share, macs=macs(), keep_ratio=ratios, metrics=metrics()))
        bar.update()
    bar.close()
    return found


def table(found: list[dict[str, Any]]) -> str:
    dense = found[0]
    names = list(dense["metrics"])
    lines = [f"{'MACs':>6}{'GMACs':>10}{'keep':>14}" + "".join(f"{name:>18}{'lost':>8}" for name in names)]
    for point in found:
        if "why" in point:
            lines.append(f"{point['wanted']:>6.0%}  {point['why']}")
            continue
        ratios = sorted(point["keep_ratio"].values())
        keep = f"{ratios[0]:.2f} - {ratios[-1]:.2f}" if ratios else "all"
        row = f"{point['macs'] / dense['macs']:>6.0%}{point['macs'] / 1e9:>10.3f}{keep:>14}"
        for name in names:
            value, whole = point["metrics"][name], dense["metrics"][name]
            row += f"{value:>18.4f}{f'{1 - value / whole:.1%}' if whole else '-':>8}"
        lines.append(row)
    return "\n".join(lines)
