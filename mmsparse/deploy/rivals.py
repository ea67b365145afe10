"""A routed network and what one could take instead of it, timed in turn in one process: as numbers."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmsparse.analysis.latency import seconds_of, time_in_turn
from mmsparse.apis import find_dials, set_keep_ratio
from mmsparse.files import write_whole

from .artifact import Artifact, Size, key_of
from .export import Wish, export, inputs_of
from .formats import FORMATS, INT8, PRECISIONS, HalfPrecision, check_compiler, threaded
from .program import Program

DENSE, ROUTED, SMALLER = "dense", "routed", "smaller picture"
IN_TORCH = ("eager", "compiled")  # not exported
RUNTIMES = (*IN_TORCH, *FORMATS)
VARIANTS = 1000
PAUSE, LONG = 0.1, 0.5  # seconds
LAYOUTS = {"": torch.contiguous_format, "channels-last": torch.channels_last}


@dataclass(frozen=True)
class Form:
    """How a network is run.

    Args:
        runtime: "eager", "compiled" (``torch.compile``), or one of ``FORMATS``.
        precision: One of ``PRECISIONS``.
    """

    runtime: str
    precision: str = "f32"

    @classmethod
    def read(cls, text: str) -> "Form":
        """Of a runtime's name, or of one with a precision: openvino-bf16."""
        runtime, _, precision = text.rpartition("-")
        form = cls(runtime, precision) if precision in PRECISIONS else cls(text)
        if form.runtime not in RUNTIMES or (form.runtime in IN_TORCH and form.precision == INT8):
            raise ValueError(
                f"Argument `forms`: expected {', '.join(RUNTIMES)}, each also with -bf16 or -f16, or openvino-int8, "
                f"but got {text!r}"
            )
        return form

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"

    @property
    def layouts(self) -> Mapping[str, torch.memory_format]:
        """Memory layouts to try; an exported network has its runtime's own."""
        return LAYOUTS if self.runtime in IN_TORCH else {"": torch.contiguous_format}


@dataclass(frozen=True)
class Network:
    """What is timed: a model that keeps what it keeps, at one size of picture."""

    name: str
    model: nn.Module
    shape: Size


@dataclass(frozen=True)
class Row:
    """One network in one form.

    Args:
        times: Milliseconds of each round, in the faster layout.
        why: Where there are none: what was said instead.
    """

    part: str
    batch: int
    threads: int
    form: str
    network: str
    shape: str
    macs: int
    layout: str = ""
    times: list[float] = field(default_factory=list)
    why: str = ""

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.times, q))

    @property
    def ms(self) -> float:
        return self.percentile(50)

    def speedup(self, other: "Row") -> float:
        """How many times as fast as the other one: median of the rounds' ratios, for noise slows a round's all."""
        return float(np.median(np.divide(other.times, self.times)))


@dataclass
class Results:
    """What a run was and found. A page of it: ``write``; a run of the same ``setup`` goes on with its rows."""

    setup: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def write(self, path: Path) -> None:
        lines = ",\n".join(json.dumps(asdict(row)) for row in self.rows)
        write_whole(f'{{"setup": {json.dumps(self.setup, indent=1)},\n"rows": [\n{lines}\n]}}\n', path)

    @classmethod
    def read(cls, path: Path) -> "Results":
        try:
            page = json.loads(path.read_text())
            return cls(page["setup"], [Row(**row) for row in page["rows"]])
        except (TypeError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} holds no results of mmsparse benchmark --rivals ({error})") from error

    @classmethod
    def begin(cls, path: Path, setup: dict[str, Any]) -> "Results":
        """New ones, or those that an interrupted run of the same kind left."""
        if not path.exists():
            return cls(setup)
        found = cls.read(path)
        differ = [name for name in setup if found.setup.get(name) != setup[name]]
        if differ:
            raise ValueError(
                f"Argument `out`: {path} has results of another run ({', '.join(differ)} differ). "
                "Name another file, or remove it"
            )
        return found

    def of(self, part: str, batch: int, threads: int) -> list[Row]:
        return [row for row in self.rows if (row.part, row.batch, row.threads) == (part, batch, threads)]


def networks_of(model: nn.Module, shape: Size, others: Mapping[str, nn.Module]) -> list[Network]:
    """The dense network, the routed one, the dense one on a smaller picture of as few MACs, and others.

    Args:
        model: Routed, at its budget.
        shape: Of a picture.
        others: Networks by name.
    """
    if not find_dials(model):
        raise ValueError(f"{type(model).__name__} has no dynamic part: there is nothing to compare with its rivals")
    dense = copy.deepcopy(model)
    set_keep_ratio(dense, 1.0)
    picture = [torch.zeros(1, 3, *shape)]
    share = Program(model).macs(picture) / Program(dense).macs(picture)
    networks = [Network(DENSE, dense, shape), Network(ROUTED, model, shape)]
    networks += [Network(SMALLER, dense, smaller(shape, share))]
    return networks + [Network(name, other, shape) for name, other in others.items()]


def smaller(shape: Size, share: float, divisor: int = 32) -> Size:
    """A picture with a share of the pixels and the same proportions, as nearly as sides of a divisor allow."""
    return tuple(max(divisor, divisor * round(math.sqrt(share) * side / divisor)) for side in shape)


def time_rivals(
    networks: Sequence[Network],
    forms: Iterable[Form],
    part: str,
    batch: int,
    threads: int,
    rounds: int,
    warmup: int,
    folder: Path,
    progress: Callable[..., Any] = lambda items, desc: items,
) -> list[Row]:
    """Every network in every form, in turn.

    Args:
        networks: The first is what others are compared with.
        forms: How each is run.
        part: "model", up to post-processing, or "backbone".
        batch: Pictures of a call.
        threads: Of a CPU.
        rounds: Timed rounds; each times everything once.
        warmup: Rounds before them.
        folder: For exported networks, which are written once and loaded for each number of threads.
        progress: Wraps what takes long, called with it and with a `desc`.
    """
    rows, clocks = [], {}
    programs = [Program(network.model, part).eval() for network in networks]
    macs = [
        program.macs([torch.zeros(batch, 3, *network.shape)])
        for program, network in zip(programs, networks, strict=True)
    ]
    cases = [(form, *case) for form in forms for case in zip(networks, programs, macs, strict=True)]
    for form, network, program, count in progress(cases, desc="preparing"):
        rows.append(Row(part, batch, threads, str(form), network.name, key_of(network.shape), count))
        for layout, memory in form.layouts.items():
            try:
                run = _runner(network, program, form, memory, threads, folder, batch)
                run()  # what fails does so before anything is timed
            except (ValueError, RuntimeError) as error:
                rows[-1] = replace(rows[-1], why=str(error).strip().splitlines()[0])
            else:
                clocks[len(rows) - 1, layout] = partial(_undisturbed, run)
    times = time_in_turn(clocks, rounds, warmup, partial(progress, desc="timing"))
    for number, row in enumerate(rows):
        found = {layout: values for (whose, layout), values in times.items() if whose == number}
        if found:
            layout = min(found, key=lambda name: float(np.median(found[name])))
            rows[number] = replace(row, layout=layout, times=np.round(found[layout], 2).tolist(), why="")
    return rows


def _undisturbed(run: Callable[[], Any]) -> float:
    """Seconds of a run. The threads of the one before may go on spinning for some 50 ms, ONNX Runtime's do; and after a
    pause a short run begins cold, so that it is the second one that counts.
    """
    time.sleep(PAUSE)
    seconds = seconds_of(run)
    return seconds if seconds > LONG else seconds_of(run)


def _runner(
    network: Network,
    program: Program,
    form: Form,
    memory: torch.memory_format,
    threads: int,
    folder: Path,
    batch: int,
) -> Callable[[], Any]:
    wish = Wish(
        form.runtime, [network.shape], batch, form.precision, "backbone" if program.kind == "backbone" else "model"
    )
    if form.runtime in FORMATS:
        return _exported(network, wish, threads, folder)
    inputs = [inputs_of(wish, network.shape, padded=False)[0].contiguous(memory_format=memory)]
    module = copy.deepcopy(program).to(memory_format=memory)
    if form.precision != "f32":
        module = HalfPrecision(module, form.precision)
    if form.runtime == "eager":
        return partial(threaded(module, threads), inputs)
    check_compiler("torch.compile")
    run = partial(threaded(torch.compile(module, fullgraph=True, dynamic=False), threads), inputs)
    with torch._dynamo.config.patch(recompile_limit=VARIANTS):  # all networks are calls of one function
        run()
    return run


def _exported(network: Network, wish: Wish, threads: int, folder: Path) -> Callable[[], Any]:
    """In a runtime whose own matter the precision is, a file serves all of them but integers."""
    kind = FORMATS[wish.format]
    kind.check(wish.precision)
    written = wish.precision if kind.casts or wish.precision == INT8 else "f32"
    place = folder / f"{network.name}-{wish.part}-{wish.batch}-{wish.format}-{written}".replace(" ", "-")
    if not place.exists():
        export(network.model, Wish(wish.format, wish.sizes, wish.batch, written, wish.part), place)
    artifact = Artifact.read(place)
    path = place / artifact.files[key_of(network.shape)]["name"]
    return partial(kind.load(path, wish.precision, threads), list(inputs_of(wish, network.shape, artifact.padded)))


def table(rows: Sequence[Row]) -> str:
    """Markdown of the rows of one part and number of threads: a line a form, a column a network.

    Milliseconds are medians; in brackets, how many times as fast as the first network in the same form.
    """
    networks = {row.network: row for row in rows}
    heads = [name if row.shape == rows[0].shape else f"{name}, {row.shape}" for name, row in networks.items()]
    first = next(iter(networks))
    lines = [["ms", *heads], [":--", *["--:"] * len(networks)]]
    lines.append(["by MACs", f"{networks[first].macs / 1e9:.0f} G"])
    lines[-1] += [f"{networks[first].macs / row.macs:.2f}x" for row in list(networks.values())[1:]]
    for form in dict.fromkeys(row.form for row in rows):
        cells = {row.network: row for row in rows if row.form == form}
        lines.append([form, *(_cell(cells[name], cells[first]) for name in networks)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row, first: Row) -> str:
    if not row.times:
        return "no"
    speedup = f" ({row.speedup(first):.2f}x)" if first.times and row is not first else ""
    return f"{row.ms:.0f}{speedup}" if row.ms >= 100 else f"{row.ms:.1f}{speedup}"
