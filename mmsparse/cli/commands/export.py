"""Export a network for another runtime: ONNX Runtime, OpenVINO, torch.export or AOTInductor.

The result is a folder with a program for each size and a page, mmsparse.json, that says what they are. Every program is
run once and compared with PyTorch before the folder appears.
"""

import argparse
from pathlib import Path

from mmsparse.apis import find_deciders
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, export_folder, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, calibration_pictures, meta_of
from mmsparse.cli.launch import check_writable
from mmsparse.deploy import FORMATS, PRECISIONS, Wish, export
from mmsparse.deploy.formats import INT8
from mmsparse.deploy.program import PARTS
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint", nargs="?", help="weights; without them random ones, to measure speed with")
    parser.add_argument("--to", choices=list(FORMATS), required=True, help="the runtime")
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", required=True, metavar=("H", "W"),
        help="of the pictures as the network gets them, padded; may be given several times",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=1, help="pictures of a call")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32")
    parser.add_argument(
        "--calibration", type=int, default=32, metavar="N",
        help="pictures of the training set that tell int8 how large numbers get",
    )  # fmt: skip
    parser.add_argument("--part", choices=PARTS, default="model", help="all of it, or the backbone")
    padding = parser.add_mutually_exclusive_group()
    padding.add_argument(
        "--padding", action="store_true", default=None,
        help="real sizes of padded pictures are a second input (the default of detectors)",
    )  # fmt: skip
    padding.add_argument("--no-padding", dest="padding", action="store_false", help="pictures fill their size")
    parser.add_argument("--preprocess", action="store_true", help="let it normalise pictures itself")
    parser.add_argument(
        "--decoded", action="store_true",
        help="post-processing is a part of it: boxes after suppression, a label map, or softmaxed scores",
    )  # fmt: skip
    parser.add_argument(
        "--keep-masks", action="store_true",
        help="where each place looked is a result, too; how much of it is as in PyTorch is told",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="the folder; default ./work_dirs/<config name>/<runtime>")
    add_keep_ratio(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    for name, numbers in (
        *(("size", size) for size in args.size),
        ("batch", [args.batch]),
        ("calibration", [args.calibration]),
    ):
        if min(numbers) < 1:
            raise ValueError(f"Expected argument `--{name}` to be positive, but got {' '.join(map(str, numbers))}")
    folder = args.out or export_folder(args.to, args.config)
    check_writable(folder.parent, "out")
    FORMATS[args.to].check(args.precision, writing=True)
    cfg = open_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args)).to("cpu")
    pictures = calibration_pictures(cfg, model, args.calibration, args.preprocess) if args.precision == INT8 else []
    wish = Wish(
        args.to,
        list(map(tuple, args.size)),
        batch=args.batch,
        precision=args.precision,
        part=args.part,
        padded=args.padding,
        preprocess=args.preprocess,
        decoded=args.decoded,
        masks=args.keep_masks,
        pictures=pictures,
    )
    names = {"config": Path(args.config).name, "checkpoint": args.checkpoint and Path(args.checkpoint).name}
    artifact = export(model, wish, folder, meta_of(cfg).get("classes"), names, tell=print)
    for size, macs in artifact.macs.items():
        share = f", {100 * macs['executed'] / macs['dense']:.1f} % of the dense network's" * bool(find_deciders(model))
        print(f"{size}: {macs['executed'] / 1e9:.2f} GMACs{share}")
    print(folder)
