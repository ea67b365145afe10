"""What a device shows of mmsparse in minutes: the laws, the kernels, whole networks, each beside what it replaces.

    python tools/analysis_tools/device_report.py --minutes 6

For a machine with a GPU; elsewhere it does what applies. What fails says why, and all else goes on. Written are
device.json and device.md in --out.
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.analysis import compare_latency
from mmsparse.apis import dense_twin, find_dials
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model
from mmsparse.cli.main import run_script
from mmsparse.deploy import Wish, export
from mmsparse.deploy.program import Program
from mmsparse.files import write_whole
from mmsparse.ops import OPERATORS, Kernel, Rows, slow_fast_conv2d

ROOT = Path(__file__).parents[2]
LAWS = ("test_law2_devices.py", "test_law9_ops.py", "test_law9_triton.py", "test_law10_compiled.py")
NETWORKS = {
    "RetinaNet ConvNeXt-T": "retinanet_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco.py",
    "UPerNet ConvNeXt-T": "dynamic-convnext-t_whole-k50_upernet_8xb2-amp-160k_ade20k-512x512.py",
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CHANNELS, TILE = 256, 4
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=6.0, help="what is not begun by then is left out, and said")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of a picture; default by the device")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=Path("work_dirs/device_report"))


def run(args: argparse.Namespace) -> None:
    deadline = time.monotonic() + 60 * args.minutes
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args.size = tuple(args.size or ((800, 1344) if device == "cuda" else (128, 160)))
    torch.backends.cudnn.benchmark = True
    report: dict[str, Any] = dict(device=_name(device), torch=torch.__version__, size=args.size, rounds=args.rounds)
    for name in args.sections:
        print(f"\n{name}", flush=True)
        rows = report[name] = []
        for row in _until(deadline, SECTIONS[name](args, device)):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            write_whole(json.dumps(report, indent=1) + "\n", args.out / "device.json")
            write_whole(_markdown(report, args.sections), args.out / "device.md")
    print(f"\n{args.out / 'device.md'}")


def _until(deadline: float, cases: Iterator[tuple[str, Callable[[], Row]]]) -> Iterator[Row]:
    """A row of each case; what fails, and what there was no time for, is a row, too."""
    for name, case in cases:
        if time.monotonic() > deadline:
            yield {"case": name, "result": "no time left"}
            continue
        try:
            yield {"case": name, **case()}
        except Exception as error:  # one row of many
            where = traceback.extract_tb(error.__traceback__)[-1]
            first = str(error).strip().splitlines()
            place = f"{Path(where.filename).name}:{where.lineno}"
            yield {"case": name, "result": f"{type(error).__name__} at {place}: {first[0] if first else ''}"}


def laws(args: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """The suite's laws of kernels and devices."""
    for name in LAWS:
        yield name, partial(_law, ROOT / "tests/test_laws" / name, args)


def _law(path: Path, args: argparse.Namespace) -> Row:
    page = (args.out / f"{path.stem}.xml").absolute()
    page.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pytest", path, "-p", "no:cacheprovider", f"--junitxml={page}"]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60 * args.minutes)
    suite = next(ElementTree.parse(page).iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    bad = [case.get("name") for case in suite.iter("testcase") if {"failure", "error"} & {part.tag for part in case}]
    row = dict(passed=total - skipped - len(bad), failed=len(bad), skipped=skipped)
    return {**row, "result": "; ".join(bad[:5])} if bad else row


def kernels(args: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """A convolution of 256 channels at tiles of 4x4, by each kernel, beside cuDNN's or oneDNN's dense one."""
    for batch in args.batches:
        for precision, dtype in DTYPES.items():
            for ratio in (0.25, 0.5):
                yield f"batch {batch}, {precision}, keep {ratio}", partial(_kernels, args, device, batch, dtype, ratio)


def _kernels(args: argparse.Namespace, device: str, batch: int, dtype: torch.dtype, ratio: float) -> Row:
    size = [side // 8 for side in args.size]  # the finest level of RetinaNet
    x = torch.randn(batch, CHANNELS, *size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, device=device, dtype=dtype) / 48
    fast = weight.sum(dim=(2, 3))
    units = batch * (-(-size[0] // TILE)) * (-(-size[1] // TILE))
    order = torch.randperm(units, device=device)
    keep, rest = (part.sort().values for part in order.split([round(ratio * units), units - round(ratio * units)]))
    inverse = torch.cat([keep, rest]).argsort()

    operator, tiles = OPERATORS["slow_fast_conv2d"], Rows(keep, rest, inverse)
    given = dict(x=x, weight=weight, fast_weight=fast, **tiles._asdict(), tile=TILE, dilation=1)
    given |= dict.fromkeys(("bias", "fast_bias", "means"))
    routed = partial(slow_fast_conv2d, x, (weight, None), (fast, None), tiles, TILE)
    dense = weight.contiguous(memory_format=torch.channels_last)
    runs = {"dense": partial(F.conv2d, x, dense, padding=1)}
    for kernel in operator.kernels:
        if kernel.device in (device, None) and (kernel.suits is None or kernel.suits(**given)):
            runs[kernel.name] = partial(_with_kernel, operator, kernel, routed)
    with torch.no_grad():
        times = compare_latency(runs, args.rounds)
    return {name: f"{found.median:.3f} ms ({found.speedup:.2f}x)" for name, found in times.items()}


def _with_kernel(operator: Any, kernel: Kernel, call: Callable[[], Tensor]) -> Tensor:
    kept, operator.kernels = operator.kernels, [kernel]
    try:
        return call()
    finally:
        operator.kernels = kept


def networks(args: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Whole networks at half of their locations beside everything kept, in turn; on a GPU from a CUDA graph, too."""
    for name, config in NETWORKS.items():
        model = build_model(open_config(str(ROOT / "configs/dynamic_convnext" / config)))
        yield f"{name}, laws", partial(_network_laws, model, args.size, device)
        for batch in args.batches:
            for precision, dtype in DTYPES.items():
                for form in ("eager", "graph") if device == "cuda" else ("eager",):
                    case = partial(_network, model, args, device, batch, dtype, form)
                    yield f"{name}, batch {batch}, {precision}, {form}", case
        if device == "cuda":
            yield f"{name}, TensorRT", partial(_tensorrt, model, args)


def _pictures(batch: int, size: tuple[int, int], device: str) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch)).to(device)


@torch.no_grad()
def _network_laws(model: nn.Module, size: tuple[int, int], device: str) -> Row:
    """Twice the same bits; and a picture's result has nothing to do with its mates', relative to the largest number."""
    program, pictures = Program(model).eval(), _pictures(2, size, device)
    both, again = program(pictures), program(pictures)
    alone = program(pictures[:1])
    same = all(torch.equal(a, b) for a, b in zip(both, again, strict=True))
    mates = max(float((a[:1] - b).abs().max() / b.abs().max()) for a, b in zip(both, alone, strict=True))
    return dict(deterministic=same, batch_mates=f"{mates:.1e}")


def _network(model: nn.Module, args: argparse.Namespace, device: str, batch: int, dtype: torch.dtype, form: str) -> Row:
    pictures = _pictures(batch, args.size, device)
    program = Program(model).eval()

    def routed() -> tuple[Tensor, ...]:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            return program(pictures)

    def dense() -> tuple[Tensor, ...]:
        with dense_twin(model):
            return routed()

    runs = {"dense": dense, "routed": routed}
    with torch.no_grad():
        macs = {name: _macs(model, program, pictures[:1], name) for name in runs}
        if form == "graph":
            runs = {name: _graph(call) for name, call in runs.items()}
        times = compare_latency(runs, args.rounds)
    row = {name: f"{found.median:.2f} ms" for name, found in times.items()}
    return {**row, "speed-up": f"{times['routed'].speedup:.2f}x", "by MACs": f"{macs['dense'] / macs['routed']:.2f}x"}


def _macs(model: nn.Module, program: Program, pictures: Tensor, name: str) -> int:
    if name == "routed":
        return program.macs([pictures])
    with dense_twin(model):
        return program.macs([pictures])


def _graph(call: Callable[[], tuple[Tensor, ...]]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _tensorrt(model: nn.Module, args: argparse.Namespace) -> Row:
    """Whether TensorRT builds what is exported, and its time by its own tool."""
    if find_spec("tensorrt") is None:
        return {"result": "TensorRT is not installed"}
    import tensorrt as trt

    row = {}
    own = [dial.keep_ratio for dial in find_dials(model)]
    for name, ratios in (("dense", [1.0] * len(own)), ("routed", own)):
        for dial, ratio in zip(find_dials(model), ratios, strict=True):
            dial.keep_ratio = ratio
        folder = args.out / f"tensorrt-{name}"
        artifact = export(model.to("cpu"), Wish("onnx", [args.size]), folder)
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        path = folder / next(iter(artifact.files.values()))["name"]
        if not parser.parse(path.read_bytes()):
            return {"result": f"not read: {parser.get_error(0)}"}
        begun = time.monotonic()
        built = builder.build_serialized_network(network, builder.create_builder_config())
        row[name] = f"built in {time.monotonic() - begun:.0f} s" if built is not None else "not built"
    model.to("cuda")
    return row


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"no GPU, {torch.get_num_threads()} CPU threads"


def _markdown(report: dict[str, Any], sections: list[str]) -> str:
    height, width = report["size"]
    lines = [
        f"{report['device']}, torch {report['torch']}, {height}x{width}, {report['rounds']} rounds in turn, medians"
    ]
    for name in sections:
        rows = report.get(name, [])
        heads = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"**{name}**", "", f"| {' | '.join(heads)} |", f"| {' | '.join([':--'] * len(heads))} |"]
        lines += [f"| {' | '.join(str(row.get(head, '')) for head in heads)} |" for row in rows]
    return "\n".join(lines) + "\n"


SECTIONS = {"laws": laws, "kernels": kernels, "networks": networks}

if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
