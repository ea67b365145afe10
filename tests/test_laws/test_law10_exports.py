"""Law 10: exported = eager, for every part, in each runtime that is here: results, and what was decided."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from network import Network, ids
from networks import LIGHT
from part_networks import KIN
from torch import Tensor, nn

from mmsparse.apis import record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.deploy.formats import FORMATS
from mmsparse.deploy.integers import quantise
from mmsparse.ops import tile_means
from mmsparse.sparsity import selection, selectors

SIZE = (64, 96)
REFUSED = {  # what must be in the sentence
    "swin-micro-mmseg-skip": "skip_windows=False",
    "vit-micro-windows": "window_size=0",
    "sam-windows": "window_size=0",
    "sparsifiner": "connectivity=None",
    "encoder": "Use it in PyTorch",
    "pixel-decoder": "Use it in PyTorch",
    "GARetinaHead": "predicts at depends on the picture",
    "GARPNHead": "predicts at depends on the picture",
    "RepPointsHead": "deformable convolutions",
    "VFNetHead": "deformable convolutions",
    "adavit": "policy=None",
    "TOODHead": "goes through the levels",
    "SOLOHead": "goes through the levels",
    "DecoupledSOLOHead": "goes through the levels",
    "DecoupledSOLOLightHead": "goes through the levels",
}
CRASH = ("NLHead", "DNLHead", "EMAHead")  # OpenVINO 2026.4 ends the process, with the stock head alone as well
COPIED = (
    "ANNHead",
    "RTMDetInsSepBNHead",
)  # a module stands at two places: torch.export traces a copy, whose decisions nobody records
NOT_COMPILED = ("STDCContextPathNet",)  # the stock forward makes lists of modules, which dynamo cannot
EXPORTED = [network for network in [*LIGHT, *KIN] if network.name not in REFUSED]
OFTEN = {  # an export takes 10 seconds; the others are behind the marker
    "convnext-atto": ["openvino"],
    "swin-micro-mmseg": ["openvino"],
    "vit-micro-featmap-cumulative": ["openvino"],
    "FPN": ["torch-export"],
    "ATSSHead-coarse": ["openvino"],
    "UPerHead": ["onnx"],
    "RTMDetInsSepBNHead": ["torch-export"],  # one tower stands at two places
}


def runs() -> Iterator[Any]:
    for network in EXPORTED:
        if network.name in OFTEN:
            yield pytest.param(network, OFTEN[network.name], id=network.name)
        runtimes = ["onnx", "torch-export"] if network.name in CRASH else ["openvino", "onnx", "torch-export"]
        yield pytest.param(network, runtimes, id=f"{network.name}-everywhere", marks=pytest.mark.slow)


class Watched(nn.Module):
    """A network whose decisions are results, too."""

    def __init__(self, network: nn.Module, masks: bool = True) -> None:
        super().__init__()
        self.network = network
        self.masks = masks

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with record_selections(self.network) as taken:
            results = self.network(x)
        return (*flat(results), *(chosen.keep_mask for _, chosen in taken if self.masks))


def flat(tree) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [tensor for part in tree for tensor in flat(part)]


def dynamic(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.pair(network.everywhere)[1].eval()


DYNAMIC = ("mmsparse", "nonzero", "scatter", "index_copy", "index_put", "masked_select", "sym_size", "local_scalar")


def static_program(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    """What exporters get for pictures of that shape: no other shape depends on data."""
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn_like(x),), strict=False)
    seen = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [target for target in seen for word in DYNAMIC if word in target]
    return program


@pytest.mark.supports
@pytest.mark.parametrize("network, runtimes", runs())
def test_exported_is_eager(network, runtimes, tmp_path):
    model, x = Watched(dynamic(network), masks=network.name not in COPIED), torch.randn(1, 3, *SIZE)
    check_exportable(model)
    with torch.no_grad():
        expected = model(x)
    program = static_program(model, x)
    masks = sum(tensor.dtype == torch.bool for tensor in expected)
    assert masks == len(network.everywhere["keep_ratio"]) * (network.name not in COPIED)
    for runtime in runtimes:
        kind = FORMATS[runtime]
        path = tmp_path / f"program{kind.suffix}"
        kind.write(program, path, ["x"], [f"y{i}" for i in range(len(expected))])
        for result, wanted in zip(kind.load(path, "f32", 1)([x]), expected, strict=True):
            if wanted.dtype == torch.bool:
                assert torch.equal(result.bool(), wanted)
            else:
                torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


class Described(nn.Module):
    """The means of the tiles of a padded map after a group norm, as a level of a neck meets a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 16)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        return tile_means(self.norm(x), 4, real.view(1, 1, *x.shape[-2:]))


@pytest.mark.parametrize("side", [8, 20])  # a crash of the runtime if booleans are converted there
def test_tiles_of_a_padded_map_after_a_group_norm(side, tmp_path):
    model, x, real = Described().eval(), torch.randn(1, 16, side, side), torch.rand(1, side**2) < 0.7
    with torch.no_grad():
        program = torch.export.export(model, (x, real), strict=False)
        expected = model(x, real)
    kind, path = FORMATS["openvino"], tmp_path / "program.xml"
    kind.write(program, path, ["x", "real"], ["y"])
    torch.testing.assert_close(kind.load(path, "f32", 1)([x, real])[0], expected)


@pytest.mark.slow
@pytest.mark.supports("int8")
@pytest.mark.parametrize("network", [n for n in EXPORTED if n.name not in (*CRASH, *COPIED)], ids=ids)
def test_quantised(network, tmp_path, record_property):
    """How many decisions are those of float32, and how far results are from these, is told on the page."""
    model, path = Watched(dynamic(network)), tmp_path / "program.xml"
    pictures = [torch.randn(1, 3, *SIZE) for _ in range(3)]
    with torch.no_grad():
        expected = model(pictures[0])
        program = torch.export.export(model, (pictures[0],), strict=False)
    kind = FORMATS["openvino"]
    kind.write(program, path, ["x"], [f"y{i}" for i in range(len(expected))])
    quantise(path, program, model, [dict(x=x) for x in pictures])
    assert "FakeQuantize" in path.read_text()
    masks, errors = [], []
    for result, wanted in zip(kind.load(path, "f32", 1)([pictures[0]]), expected, strict=True):
        if wanted.dtype == torch.bool:
            masks.append((result.bool() == wanted).double().mean())
        else:
            errors.append((result - wanted).norm() / wanted.norm())
    assert torch.stack(errors).isfinite().all()
    record_property("int8", [round(float(torch.stack(masks).mean()), 3), round(float(torch.stack(errors).median()), 3)])


@pytest.mark.parametrize("network", [n for n in [*LIGHT, *KIN] if n.name in REFUSED], ids=ids)
def test_what_cannot_be_exported_says_what_to_do(network):
    with pytest.raises(ValueError, match=f"cannot be exported: .*{REFUSED[network.name]}"):
        check_exportable(dynamic(network))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 63, 64, 65, 1000])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("short", [0, 2048])
def test_the_order_of_rows(length, share, short, monkeypatch):
    monkeypatch.setattr(selection, "SHORT", short)
    mask = torch.rand(length) < share
    expected = torch.cat([mask.nonzero().squeeze(1), (~mask).nonzero().squeeze(1)])
    assert torch.equal(selection.kept_first(mask), expected)


def scores_of(kind: str) -> torch.Tensor:
    scores = torch.randn(2, 3000)
    if kind == "ties":
        scores = (scores * 2).round()
    elif kind == "one value":
        scores = torch.full_like(scores, -3.25)
    elif kind == "far apart":
        scores = scores.sign() * 10.0 ** (scores * 5)
    elif kind == "half buried":
        scores[0, ::2] = selectors.BURIED
    elif kind == "all buried":
        scores[1] = selectors.BURIED
    return scores


@pytest.mark.parametrize("kind", ["random", "ties", "one value", "far apart", "half buried", "all buried"])
@pytest.mark.parametrize("k", [1, 700, 2050, 2999, 3000])
def test_the_best_of_long_rows(kind, k, monkeypatch):
    scores = scores_of(kind)
    expected, _ = selectors.best_of(scores, (k,))
    monkeypatch.setattr(selectors, "exporting", lambda: True)
    monkeypatch.setattr(selectors, "LONG", 0)
    found, threshold = selectors.best_of(scores, (k,))
    assert found.sum(dim=1).tolist() == [k, k]
    assert torch.equal(found, expected) or kind == "far apart"
    worst_kept = scores.masked_fill(~found, torch.inf).amin(dim=1)
    best_left = scores.masked_fill(found, -torch.inf).amax(dim=1)
    real = scores[scores > selectors.BURIED / 2]
    assert (best_left - worst_kept <= (real.amax() - real.amin()) / 2**31).all()
    assert (threshold[:, 0] <= worst_kept).all()


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_best_of_long_rows_exported(runtime, tmp_path):
    class Best(torch.nn.Module):
        def forward(self, scores):
            return selectors.best_of(scores, (9000,))[0]

    kind, scores = FORMATS[runtime], torch.randn(1, 20000)
    program = torch.export.export(Best(), (torch.randn(1, 20000),), strict=False)
    assert "topk" not in str(program.graph)
    path = tmp_path / f"program{kind.suffix}"
    kind.write(program, path, ["x"], ["y"])
    (found,) = kind.load(path, "f32", 1)([scores])
    assert torch.equal(found.bool(), Best()(scores))
