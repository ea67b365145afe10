"""Post-training quantisation of an exported network, by NNCF: what is chosen is chosen in float.

Scorers and what selects, whose small numbers decide, and normalisation in groups, which exports take apart, stay in
float. What a routed convolution reads is made integers before its rows are gathered, so that they cost bytes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmsparse.sparsity import Decider

from .formats import INT8

IN_FLOAT = (Decider, nn.GroupNorm)
MOVES = ("Pad", "Reshape", "Transpose")  # operators that move numbers and do not change them
LEVELS = 256


def quantise(path: Path, program: ExportedProgram, network: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> None:
    """Replace OpenVINO's file by one that computes in integers.

    Args:
        path: What was written.
        program: What it was written from.
        network: What that was read from.
        batches: Inputs of calls by name; how large numbers get is seen on these.
    """
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    nncf.set_log_level(logging.ERROR)
    floats = _in_float(program, network)
    ignored = [
        node.get_friendly_name()
        for node in model.get_ops()
        if node.get_friendly_name().partition("/")[0] in floats and node.get_type_name() != "Constant"
    ]
    data = [{name: value.numpy() for name, value in batch.items()} for batch in batches]
    quantised = nncf.quantize(
        model,
        nncf.Dataset(data),
        subset_size=len(data),
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
    )
    _before_gathers(quantised)
    aside = path.with_stem(f"{path.stem}.{INT8}")  # the file itself is the model's memory
    openvino.save_model(quantised, aside, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        aside.with_suffix(suffix).replace(path.with_suffix(suffix))


def _in_float(program: ExportedProgram, network: nn.Module) -> set[str]:
    """Names of a program's nodes that belong to modules in float."""
    modules = {name for name, module in network.named_modules() if isinstance(module, IN_FLOAT)}
    stacks = {node.name: node.meta.get("nn_module_stack", {}).values() for node in program.graph.nodes}
    return {name for name, stack in stacks.items() if any(path in modules for path, _ in stack)}


def _before_gathers(model: Any) -> None:
    """Quantise the rows that are gathered from a map once more, symmetrically, right before.

    The zeros around a map are put there in float otherwise, because for the convolutions that share its quantisation a
    runtime moves its zero.
    """
    import openvino.opset13 as ops

    for gather in [node for node in model.get_ops() if node.get_type_name() == "Gather"]:
        moves = []
        source = gather.input_value(0).get_node()
        while source.get_type_name() in MOVES:
            moves.append(source)
            source = source.input_value(0).get_node()
        if source.get_type_name() != "FakeQuantize" or "Pad" not in {node.get_type_name() for node in moves}:
            continue
        low, high = (source.input_value(i).get_node().data for i in (1, 2))
        if low.min() >= 0:
            continue
        readers = moves[0].output(0).get_target_inputs()
        moves[-1].input(0).replace_source_output(source.input_value(0))
        reach = max(-low.min(), high.max())
        ends = [ops.constant(np.full((1, 1), end, np.float32)) for end in (-reach, reach * (1 - 2 / LEVELS))] * 2
        rows = ops.fake_quantize(moves[0].output(0), *ends, LEVELS)
        for reader in readers:
            reader.replace_source_output(rows.output(0))
    model.validate_nodes_and_infer_types()
