"""What a small variant of every published config gives, against numbers that were kept.

``pytest tests/test_golden.py --renew-golden`` writes the numbers anew, where a change of them is meant; it shows in the
diff of tests/golden. In double precision another kernel or order of sums changes results by 1e-12 of the largest, a
step in single precision by 1e-8 to 1e-7; the tolerances lie between.
"""

import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frozen import SIZES, Raw, digest, freeze, metainfo, pictures, tensors, watch_margins
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from small import CLASSES, ROOT, published, small_config
from torch import Tensor, nn

from mmsparse import ignore_padding, pop_aux
from mmsparse.apis import find_deciders, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.sparsity import GumbelSelector
from projects.adavit.choices import Choice

FOLDER = Path(__file__).parent / "golden"
# Of the largest magnitude of each tensor; gates, their losses and targets have single precision.
TOLERANCES = dict(outputs=1e-9, losses=1e-5, gradients=1e-5)
PLACED = dict(outputs=2e-6, losses=1e-5, gradients=1e-4)  # of transformers with positions in single precision
MARGIN = 1e-5  # scores are compared in single precision


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def file_of(name: str) -> Path:
    """The numbers of a folder of configs lie together."""
    first, second = Path(name).parts[:2]
    return FOLDER / f"{second if first == 'configs' else f'project_{second}'}.json"


@cache
def kept() -> dict[str, dict[str, Any]]:
    return {
        name: entry for file in sorted(FOLDER.glob("*.json")) for name, entry in json.loads(file.read_text()).items()
    }


@cache
def groups() -> dict[str, list[str]]:
    """The configs of each distinct small network, by the one that has its numbers, or else the first."""
    first: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    for path in sorted(published(), key=lambda path: name_of(path) not in kept()):
        name = first.setdefault(json.dumps(small_config(path), sort_keys=True), name_of(path))
        found.setdefault(name, []).append(name_of(path))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        names = groups() if metafunc.config.getoption("--renew-golden") else kept()
        metafunc.parametrize("name", names, ids=lambda name: Path(name).stem)


@pytest.fixture(scope="module")
def renewed(request: pytest.FixtureRequest) -> Iterator[dict[str, Any] | None]:
    """Where new numbers are collected, if they shall be written."""
    if not request.config.getoption("--renew-golden"):
        yield None
        return
    entries: dict[str, Any] = {}
    yield entries
    for file in {file_of(name) for name in entries}:
        mine = {name: entry for name, entry in {**kept(), **entries}.items() if name in groups()}
        file.write_text(json.dumps({n: e for n, e in sorted(mine.items()) if file_of(n) == file}, indent=1) + "\n")


def test_the_numbers_are_those_that_were_kept(name: str, renewed: dict[str, Any] | None):
    now = measure(ROOT / name)
    if renewed is not None:
        renewed[name] = {"configs": groups()[name], **now}
        return
    before = kept()[name]
    assert now["decisions"] == before["decisions"]
    for part, tolerance in tolerances(name).items():
        assert differing(now.get(part, {}), before.get(part, {}), tolerance) == {}


def test_every_published_config_has_numbers(request: pytest.FixtureRequest):
    if request.config.getoption("--renew-golden"):
        pytest.skip("they are being written")
    assert {name: entry["configs"] for name, entry in kept().items()} == groups()


def tolerances(name: str) -> dict[str, float]:
    model = small_config(ROOT / name)["model"]
    kinds = f"{model['type']} {model['backbone']['type']}"
    return PLACED if any(kind in kinds for kind in ("ViT", "VisionTransformer", "DINO")) else TOLERANCES


def measure(path: Path) -> dict[str, Any]:
    """The numbers of a config's small variant: in evaluation, and of a training step that has no noise."""
    cfg = small_config(path)
    with DefaultScope.overwrite_default_scope(cfg["scope"]):
        model = Raw(freeze(MODELS.build(ConfigDict(cfg["model"]))))
    decisions = find_deciders(model)
    if decisions:
        ignore_padding(model)
    inputs, samples = pictures(), data_samples(cfg["scope"])
    model.eval()
    with torch.no_grad(), record_selections(model) as taken, watch_margins() as margins:
        outputs = model(inputs, samples)
    assert min(margins, default=1.0) > MARGIN, min(margins)  # or rounding could decide; change the pictures
    check_routing(decisions, taken)
    numbers = dict(
        decisions={place: describe(selection.keep_mask) for place, selection in taken},
        outputs={f"{where} {tuple(x.shape)}": text(digest(x)) for where, x in tensors(outputs)},
    )
    noisy = any(isinstance(module, GumbelSelector | Choice) for module in model.modules())
    single = "RTMDet" in cfg["model"].get("bbox_head", {}).get("type", "")  # precision, which its targets insist on
    at_random = ("roi_head", "dn_query_generator", "panoptic_head")  # they draw samples
    sampled = any(hasattr(model.model, part) for part in at_random)
    if noisy or single or sampled:
        return numbers
    return {**numbers, **step(model, inputs, samples, cfg["hooks"])}


def check_routing(decisions: list[nn.Module], taken: list[Any]) -> None:
    """Every place with a budget decides, and both paths are taken."""
    budgets = {decision.name: decision.keep_ratio for decision in decisions if decision.keep_ratio < 1}
    assert [name for name, _ in taken] == list(budgets)
    for name, selection in taken:
        assert selection.keep_mask.any() or budgets[name] < 1e-3, name  # a budget of nothing
        assert not selection.keep_mask.all(), name


def describe(keep_mask: Tensor) -> str:
    """How many locations of each picture are kept, and a check sum of which."""
    check = zlib.crc32(np.packbits(keep_mask.numpy()).tobytes())
    return f"{' '.join(map(str, keep_mask.sum(dim=1).tolist()))} of {keep_mask.shape[1]}, {check:08x}"


def step(model: Raw, inputs: Tensor, samples: list[Any], hooks: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses of a training step, and its gradients, part by part."""
    model.train()
    for hook in hooks:
        SparsityHook(**{key: value for key, value in hook.items() if key != "type"}).attach(model)
    losses = model(inputs, samples, mode="loss")
    pop_aux(model)
    flat = {key: sum(x.sum() for _, x in tensors(value)) for key, value in losses.items() if "acc" not in key}
    sum(value for key, value in flat.items() if "loss" in key).backward()
    parts: dict[str, list[Tensor]] = {}
    for name, parameter in model.model.named_parameters():
        if parameter.grad is not None:
            part = name.split(".")[:3] if ".router." in name else name.split(".")[:1]
            parts.setdefault(".".join(part), []).append(parameter.grad.double().flatten())
    return dict(
        losses={key: text([value.item()]) for key, value in flat.items()},
        gradients={part: text(digest(torch.cat(grads))) for part, grads in parts.items()},
    )


def data_samples(scope: str) -> list[Any]:
    """Annotations of each picture, fixed."""
    return [SAMPLES[scope](i, size) for i, size in enumerate(SIZES)]


def _detection(i: int, size: tuple[int, int]) -> Any:
    from mmdet.structures import DetDataSample

    boxes = torch.tensor([[10.3, 12.7, 50.9, 60.1], [30.2, 5.4, 85.1, 90.9]]) + i  # no anchor is as near as another
    sample = DetDataSample(metainfo=metainfo(size))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([i, 3]))
    return sample


def _segmentation(i: int, size: tuple[int, int]) -> Any:
    from mmseg.structures import SegDataSample

    rows, columns = torch.arange(SIZES[0][0])[:, None], torch.arange(SIZES[0][1])
    labels = (rows // 24 + columns // 32 + i) % CLASSES
    labels[size[0] :], labels[:, size[1] :] = 255, 255
    sample = SegDataSample(metainfo=metainfo(size))
    sample.gt_sem_seg = PixelData(data=labels[None])
    return sample


def _classification(i: int, size: tuple[int, int]) -> Any:
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(i + 1)


SAMPLES = dict(mmdet=_detection, mmseg=_segmentation, mmpretrain=_classification)


def text(numbers: Any) -> str:
    return " ".join(f"{number:.10g}" for number in numbers)


def differing(now: dict[str, str], before: dict[str, str], tolerance: float) -> dict[str, str]:
    """What differs, and by how much of the largest number."""
    found = {}
    for name in before.keys() | now.keys():
        if name not in now or name not in before:
            found[name] = "is new" if name in now else "is gone"
            continue
        a, b = (np.array(numbers.split(), dtype=float) for numbers in (now[name], before[name]))
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)
        if not error <= tolerance:
            found[name] = f"differs by {error:.1e}"
    return found
