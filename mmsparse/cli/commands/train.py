"""Train a detector, segmenter or classifier from its config."""

import argparse

from mmsparse.cli.arguments import add_config_options, add_launcher, set_local_rank
from mmsparse.cli.budgets import open_config
from mmsparse.cli.launch import build_runner, choose_start, close_process_group, prepare_work_dir, use_amp
from mmsparse.cli.preflight import check_training
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="config file; its default_scope says which library trains")
    parser.add_argument("--work-dir", help="where logs and checkpoints go; default ./work_dirs/<config name>")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (bfloat16 on a CPU)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate to the batch size")
    parser.add_argument("--resume", nargs="?", const="auto", help="resume from a checkpoint, or from the latest one")
    parser.add_argument("--load-from", help="start from the weights of a checkpoint, for example the dense twin's")
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate while training")
    add_trust(parser)
    add_config_options(parser)
    add_launcher(parser)


def run(args: argparse.Namespace) -> None:
    set_local_rank(args)
    train(args)
    close_process_group()  # no runner is held any more


def train(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    cfg = open_config(args.config, args.cfg_options, args.launcher)
    prepare_work_dir(cfg, args.work_dir, args.config)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise ValueError(f"--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config}")
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    choose_start(cfg, args.resume, args.load_from)
    if cfg.get("randomness", {}).get("seed") is not None:
        hook = dict(type="mmsparse.SeedHook", seed=cfg.randomness.seed)  # a resumed run draws what it would have drawn
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), hook]
    built = check_training(cfg)
    build_runner(cfg, built).train()
