"""``mmsparse benchmark --rivals``: which networks, and what is told and written of them."""

import argparse
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from mmsparse.apis import get_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model
from mmsparse.cli.launch import check_writable
from mmsparse.deploy.program import kind_of
from mmsparse.deploy.rivals import Form, Results, Row, networks_of, table, time_rivals
from mmsparse.mistakes import mistakes_in

VERSIONS = ("mmsparse", "torch", "onnxruntime", "openvino")


def run_rivals(model: nn.Module, args: argparse.Namespace, threads: Sequence[int]) -> dict[str, Any]:
    if not args.shape:
        raise ValueError("--rivals needs --shape H W: an exported network has one size")
    if "model" in args.parts:
        with mistakes_in("--rivals (without it, the whole network is timed in PyTorch)"):
            kind_of(model)
    forms = list(map(Form.read, args.forms))
    out = args.out or Path("work_dirs") / Path(args.config).stem / "rivals.json"
    check_writable(out.parent, "out")
    results = Results.begin(out, _setup(model, args))
    others = {Path(path).stem: build_model(open_config(path)) for path in args.rivals}
    networks = networks_of(model, tuple(args.shape), others)
    for batch in args.batch_sizes:
        with tempfile.TemporaryDirectory() as folder:
            for part in args.parts:
                for number in threads:
                    print(f"\n{part}, batch {batch}, {number} threads")
                    if not results.of(part, batch, number):
                        results.rows += time_rivals(
                            networks, forms, part, batch, number, args.rounds, args.warmup, Path(folder),
                            partial(tqdm, leave=False),
                        )  # fmt: skip
                        out.parent.mkdir(parents=True, exist_ok=True)
                        results.write(out)
                    rows = results.of(part, batch, number)
                    print("\n".join(map(_line, rows)), table(rows), sep="\n\n")
    print(f"\n{out}")
    return asdict(results)


def _setup(model: nn.Module, args: argparse.Namespace) -> dict[str, Any]:
    return dict(
        config=Path(args.config).name,
        options=args.cfg_options or {},
        checkpoint=args.checkpoint and Path(args.checkpoint).name,
        budgets=get_keep_ratio(model),
        shape=args.shape,
        rounds=args.rounds,
        warmup=args.warmup,
        forms=args.forms,
        rivals=[Path(path).name for path in args.rivals],
        machine=processor(),
        versions={name: _version(name) for name in VERSIONS},
    )


def _line(row: Row) -> str:
    """A row's median with what nine in ten rounds lie between, or why there is none."""
    head = f"{row.form:<14}{row.network:<20}{row.shape:>10}{row.macs / 1e9:9.2f} GMACs"
    if not row.times:
        return f"{head}  {row.why}"
    return f"{head}{row.ms:9.1f} ms ({row.percentile(10):.1f} - {row.percentile(90):.1f}) {row.layout}"


def processor() -> str:
    """By name, with what it has for half precision and int8."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in found.get("flags", "")]
    return " ".join([found.get("model name", platform.processor() or platform.machine()), *flags])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
