"""What works of each part, and where: collected from the tests marked ``supports``, and told by docs/support.md.

    python -m pytest tests/test_laws -m supports --support docs/support.json

runs them, the slow ones as well (an hour on two cores), adds what they found to the file, and writes the page anew.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

COLUMNS = ("eager", "compile", "export", "ONNX Runtime", "OpenVINO", "int8")
OF_RUNTIMES = {"torch-export": "export", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
ALIKE, APART = 0.9, 0.25  # keep masks that are equal in int8, and results' distance, for it to be no experiment
KEY = "supports"
Found = dict[str, dict[str, Any]]  # network -> column -> whether it passed, or what was measured


def mark(item: pytest.Item) -> None:
    """Let a test's report say what it is about."""
    marker = item.get_closest_marker(KEY)
    given = getattr(getattr(item, "callspec", None), "params", {})
    if marker is not None and "network" in given:
        columns = [OF_RUNTIMES[runtime] for runtime in given.get("runtimes", ())] or list(marker.args)
        item.user_properties.append((KEY, (given["network"].name, columns)))


def collect(found: Found, report: pytest.TestReport) -> None:
    if report.when != "call" and not report.failed:
        return
    properties = dict(report.user_properties)
    if KEY not in properties or report.skipped:
        return
    name, columns = properties[KEY]
    for column in columns:
        row = found.setdefault(name, {})
        if column in properties and report.passed:
            row[column] = properties[column]
        else:
            row[column] = report.passed and row.get(column, True) is not False


def write(found: Found, file: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent / "test_laws"))  # workers ran the tests there
    from networks import ALL
    from part_networks import KIN

    kept = json.loads(file.read_text()) if file.is_file() else {}
    names = [network.name for network in [*ALL, *KIN]]
    rows = {name: {**kept.get(name, {}), **found.get(name, {})} for name in names}
    file.write_text(json.dumps({name: row for name, row in rows.items() if row}, indent=1) + "\n")
    file.with_suffix(".md").write_text(page(json.loads(file.read_text())))


def page(found: Found) -> str:
    from networks import ALL
    from part_networks import KIN
    from test_law10_exports import CRASH, NOT_COMPILED, REFUSED, dynamic

    from mmsparse import models
    from mmsparse.deploy.check import check_exportable
    from mmsparse.models.convs import RoutedConv2d
    from mmsparse.stock import DETECTORS

    reasons: list[str] = []
    lines, told = [], set()
    for network in [*ALL, *KIN]:
        if network.name not in found:
            continue
        model = dynamic(network)
        part = next(m for m in model.modules() if hasattr(m, "router") and m.router is not None)
        classes = [f"Dynamic{name}" for name in DETECTORS] if network.name == "encoder" else [type(part).__name__]
        told |= {*classes}
        cells = [_cell(found[network.name].get(column)) for column in COLUMNS]
        if network.name in REFUSED:
            with pytest.raises(ValueError) as refused:
                check_exportable(model)
            reason = str(refused.value).partition("cannot be exported: ")[2]
            reasons += [reason] if reason not in reasons else []
            no = f"no [{reasons.index(reason) + 1}]"
            cells[1:] = [cell if cell == "yes" else no for cell in cells[1:]]
        for known, columns, reason in (
            (CRASH, slice(4, 6), "OpenVINO 2026.4 ends the process, with the stock head alone as well"),
            (
                NOT_COMPILED,
                slice(1, 2),
                "the stock forward makes lists of modules, which `torch.compile` cannot follow",
            ),
        ):
            if network.name in known:
                reasons += [reason] if reason not in reasons else []
                cells[columns] = [f"no [{reasons.index(reason) + 1}]"] * len(cells[columns])
        kernels = "experimental" if any(isinstance(m, RoutedConv2d) for m in model.modules()) else "plain"
        lines.append(
            f"| {', '.join(f'`{name}`' for name in classes)} | {network.name} | {' | '.join(cells)} | {kernels} |"
        )
    others = sorted(name for name in vars(models) if name.startswith("Dynamic") and name not in told)
    notes = "\n".join(f"{number}. {reason}." for number, reason in enumerate(reasons, 1))
    return HEAD + "\n".join(lines) + TAIL.format(notes=notes, others=", ".join(f"`{name}`" for name in others))


def _cell(result: Any) -> str:
    if result is None:
        return "not tested"
    if isinstance(result, bool):
        return "yes" if result else "**fails**"
    masks, apart = result
    return "yes" if masks >= ALIKE and apart <= APART else f"experimental ({masks:.2f}, {apart:.2f})"


HEAD = f"""# What works where

Written from what these tests found, on small networks with random weights; torch 2.11.0, OpenVINO 2026.4.1, ONNX
Runtime 1.32.0, NNCF 3.4.0, CPU:

    python -m pytest tests/test_laws -m supports --support docs/support.json

- **eager**: with everything kept it is the stock class, outputs and gradients; training is evaluation; batch mates and
  threads do not matter; all parameters learn.
- **compile**: `torch.compile(fullgraph=True)`, eager's very numbers. **export**, **ONNX Runtime**, **OpenVINO**:
  results within 1e-4, the same decisions.
- **int8**: quantised by NNCF. "experimental" where fewer than {ALIKE:.0%} of the keep masks are those of float32, or
  results are further away than {APART:.0%} of their norm, with both numbers. They are of random weights after three
  pictures; `mmsparse export --precision int8` measures yours.
- **Triton**: "plain" runs PyTorch's own kernels on a GPU. "experimental" has a kernel of ours, which Triton's
  interpreter runs in the tests; on a GPU it was not run.

| class | network of the tests | {" | ".join(COLUMNS)} | Triton |
| :-- | :-- | {" | ".join([":--"] * len(COLUMNS))} | :-- |
"""
TAIL = """

{notes}

Experimental, of the same mechanisms, but in no law test: {others}.
`python tools/misc/check_stock_configs.py` trains and evaluates those that a stock config has.
"""
