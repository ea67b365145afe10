"""Evaluate a checkpoint: the metrics of its config, beside the arithmetic that was executed."""

import argparse
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.registry import MODELS

from mmsparse.analysis.report import macs_table, picture_macs
from mmsparse.apis import find_dials, get_keep_ratio
from mmsparse.cli.arguments import (
    add_config_options,
    add_keep_ratio,
    add_launcher,
    add_runtime,
    check_runtime,
    export_folder,
    read_keep_ratio,
    set_local_rank,
)
from mmsparse.cli.budgets import open_config
from mmsparse.cli.launch import build_runner, check_writable, close_process_group, prepare_work_dir
from mmsparse.cli.numbers import add_json
from mmsparse.cli.preflight import check_testing
from mmsparse.deploy import serve
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="a checkpoint of this config or of its dense twin")
    parser.add_argument("--work-dir", help="where logs go; default ./work_dirs/<config name>")
    add_keep_ratio(parser)
    parser.add_argument("--macs-pictures", type=int, default=4, help="pictures the MACs are averaged over; 0: none")
    parser.add_argument("--out", help="dump predictions to this pickle file")
    parser.add_argument("--show", action="store_true", help="show predictions in a window")
    parser.add_argument("--show-dir", help="write pictures of predictions to this folder (inside the work dir)")
    add_runtime(parser)
    parser.add_argument("--tta", action="store_true", help="test-time augmentation of the config")
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)
    add_launcher(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    set_local_rank(args)
    found = test(args)
    close_process_group()  # no runner is held any more
    return found


def test(args: argparse.Namespace) -> dict[str, Any] | None:
    """Numbers; None in all processes but the first one."""
    trust_checkpoints(args.trust_checkpoint)
    check_runtime(args)
    cfg = open_config(args.config, args.cfg_options, args.launcher)
    prepare_work_dir(cfg, args.work_dir, args.config)
    if args.out:
        check_writable(Path(args.out).parent, "out")
    cfg.load_from, cfg.resume = None, False
    built = check_testing(cfg, args.checkpoint, read_keep_ratio(args))
    model = built.model
    if args.runtime:
        serve(model, export_folder(args.runtime, args.config))
    if args.show or args.show_dir:
        if "visualization" not in cfg.get("default_hooks", {}):
            raise ValueError(f"--show and --show-dir need default_hooks.visualization in {args.config}")
        cfg.default_hooks.visualization.update(draw=True, show=args.show, test_out_dir=args.show_dir)
    if args.tta:
        if "tta_model" not in cfg or "tta_pipeline" not in cfg:
            raise ValueError(f"--tta needs tta_model and tta_pipeline in {args.config}")
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        built = built._replace(model=MODELS.build(dict(**cfg.tta_model, module=model)))
        cfg.model = dict(**cfg.tta_model, module=cfg.model)
    if args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list | tuple) else [cfg.test_evaluator]
        dump = "mmdet.DumpDetResults" if cfg.get("default_scope") == "mmdet" else "mmengine.DumpResults"
        cfg.test_evaluator = [*evaluators, dict(type=dump, out_file_path=args.out)]

    runner = build_runner(cfg, built)
    found = {"metrics": runner.test()}
    if not is_main_process():
        return None
    if args.macs_pictures and find_dials(model) and not args.runtime and not args.tta:
        dataset = runner.test_dataloader.dataset
        pictures = [dataset[i] for i in range(min(args.macs_pictures, len(dataset)))]
        macs = picture_macs(model, pictures)
        found |= {"keep_ratio": get_keep_ratio(model), "macs": macs.means()}
        runner.logger.info(f"keep ratio of each place: {found['keep_ratio']}")
        runner.logger.info(f"executed arithmetic, mean over {len(pictures)} pictures\n{macs_table(macs)}")
    return found
