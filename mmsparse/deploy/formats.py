"""The files an exported network can be, and how each is written and run. A new one is a class here and nothing else."""

import importlib
import io
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

Run = Callable[[Sequence[Tensor]], list[Tensor]]
INT8 = "int8"
PRECISIONS = ("f32", "bf16", "f16", INT8)
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}


class Format:
    """A kind of file.

    Attributes:
        suffix: Of its name.
        needs: What must be installed to run it, and to write it.
        beside: Suffixes of further files of the same name.
        precisions: What it can compute in.
        casts: Whether the exported network itself computes in another precision; otherwise its runtime does.
    """

    suffix: ClassVar[str]
    needs: ClassVar[Sequence[str]] = ()
    beside: ClassVar[Sequence[str]] = ()
    precisions: ClassVar[Sequence[str]] = ("f32",)
    casts: ClassVar[bool] = True

    def check(self, precision: str, writing: bool = False) -> None:
        """Refuse what cannot work here."""
        if precision not in self.precisions:
            raise ValueError(
                f"{type(self).__name__} exports in {' or '.join(self.precisions)}, but --precision is {precision}. "
                f"OpenVINO has all of {', '.join(PRECISIONS)}"
            )
        needs = self.writers(precision) if writing else self.needs
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        if missing:
            raise RuntimeError(
                f"{type(self).__name__} needs {' and '.join(missing)}, not installed here: "
                "pip install 'mmsparse[deploy]'"
            )

    def writers(self, precision: str) -> Sequence[str]:
        """What must be installed to write a precision."""
        return (*self.needs, "nncf") if precision == INT8 else self.needs

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        raise NotImplementedError

    def load(self, path: Path, precision: str, threads: int | None) -> Run:
        """A function of the inputs."""
        raise NotImplementedError


class Onnx(Format):
    """ONNX, run by ONNX Runtime."""

    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
            external_data=False,
            optimize=False,
        )
        exported.save(path)

    def load(self, path: Path, precision: str, threads: int | None) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
            return [torch.from_numpy(array) for array in session.run(None, fed)]

        return run


class OpenVino(Format):
    """OpenVINO's two files; the precision is a wish that its runtime is told."""

    suffix = ".xml"
    needs = ("openvino",)
    beside = (".bin",)
    precisions = PRECISIONS
    casts = False

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        import openvino
        from openvino._offline_transformations import apply_moc_transformations
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        # What openvino.convert_model does, but that sizes are set before its passes, which take seconds longer without.
        front = FrontEndManager().load_by_framework("pytorch")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it logs tracebacks of what this torch does not decompose anyway
        try:
            decoder = TorchFXPythonDecoder.from_exported_program(program)  # the front end does not keep it alive
        finally:
            logging.disable(before)
        model = front.convert(front.load(decoder))
        shapes = [list(value.shape) for value in program.example_inputs[0]]
        model.reshape(dict(zip(model.inputs, shapes, strict=True)))
        apply_moc_transformations(model, cf=False, smart_reshape=True)
        for ports, names in ((model.inputs, inputs), (model.outputs, outputs)):
            for port, name in zip(ports, names, strict=True):
                port.get_tensor().set_names({name})
        openvino.save_model(model, path, compress_to_fp16=False)

    def load(self, path: Path, precision: str, threads: int | None) -> Run:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if precision != INT8:  # what is not made integers is OpenVINO's choice: bf16 where a CPU has it
            settings["INFERENCE_PRECISION_HINT"] = precision
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled, own = _core().compile_model(path, "CPU", settings), threading.local()

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            if not hasattr(own, "request"):  # of two threads that share one, each would get the other's results
                own.request = compiled.create_infer_request()
            results = own.request.infer([value.numpy() for value in inputs], share_inputs=True)
            return [torch.from_numpy(np.array(array)) for array in results.values()]

        return run


@cache
def _core() -> Any:
    """One for the process. Each gives the thread a stack for signals and puts the one before back when it goes: of two
    that go in the order in which they came, the first one's memory stays in use, and the next signal is the last.
    """
    import openvino

    return openvino.Core()


class TorchExport(Format):
    """A program of ``torch.export``, run by PyTorch node by node."""

    suffix = ".pt2"
    precisions = ("f32", "bf16")

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        buffer = io.BytesIO()  # where a disk is full, what writes to a file itself ends the process
        torch.export.save(program, buffer)
        path.write_bytes(buffer.getvalue())

    def load(self, path: Path, precision: str, threads: int | None) -> Run:
        return threaded(torch.export.load(path).module(), threads)


class Aoti(Format):
    """A package compiled ahead of time by AOTInductor, run without Python code."""

    suffix = ".aoti.pt2"

    def check(self, precision: str, writing: bool = False) -> None:
        super().check(precision, writing)
        check_compiler("Aoti")

    def write(self, program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))

    def load(self, path: Path, precision: str, threads: int | None) -> Run:
        return threaded(torch._inductor.aoti_load_package(str(path)), threads)


def check_compiler(what: str) -> None:
    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise RuntimeError(f"{what} needs a C++ compiler (g++ or clang++), not found here. Install one")


FORMATS: dict[str, Format] = {
    "onnx": Onnx(),
    "openvino": OpenVino(),
    "torch-export": TorchExport(),
    "aoti": Aoti(),
}


class HalfPrecision(nn.Module):
    """A program under autocast, its inputs and results in float."""

    def __init__(self, program: nn.Module, precision: str) -> None:
        super().__init__()
        self.program, self.dtype = program, DTYPES[precision]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", self.dtype):
            results = self.program(*inputs)
        return tuple(result.float() if result.is_floating_point() else result for result in results)


def threaded(module: Callable[..., Sequence[Tensor]], threads: int | None) -> Run:
    """A module as a function of its inputs, run by so many threads of PyTorch."""

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), _torch_threads(threads):
            return list(module(*inputs))

    return run


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
