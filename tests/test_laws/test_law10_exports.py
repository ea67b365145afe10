"""Law 10: exported = eager, for every part, in each runtime that is here: results, and what was decided."""

import pytest
import torch
from networks import LIGHT, Network, ids
from torch import Tensor, nn

from mmsparse.apis import record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.deploy.formats import FORMATS

SIZE = (64, 96)
REFUSED = {  # what must be in the sentence
    "swin-micro-mmseg-skip": "skip_windows=False",
    "vit-micro-windows": "window_size=0",
    "sparsifiner": "connectivity=None",
}


class Watched(nn.Module):
    """A network whose decisions are results, too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        with record_selections(self.network) as taken:
            results = self.network(x)
        return (*flat(results), *(selection.keep_mask for _, selection in taken))


def flat(tree) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [tensor for part in tree for tensor in flat(part)]


def dynamic(network: Network) -> nn.Module:
    torch.manual_seed(0)
    return network.pair(network.everywhere)[1].eval()


@pytest.mark.parametrize("network", [n for n in LIGHT if n.name not in REFUSED], ids=ids)
def test_exported_is_eager(network, tmp_path):
    model = Watched(dynamic(network))
    check_exportable(model)
    x, other = torch.randn(2, 2, 3, *SIZE)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=False)
        seen = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        words = ("mmsparse", "nonzero", "scatter", "index_copy", "index_put", "masked_select", "sym_size", "item")
        assert not [target for target in seen for word in words if word in target]
        assert "aten.index.Tensor" not in seen
        expected = model(other)
    decided = sum(tensor.dtype == torch.bool for tensor in expected)
    assert decided == len(network.everywhere["keep_ratio"])
    for name in ("torch-export", "onnx", "openvino"):
        kind, path = FORMATS[name], tmp_path / f"program{FORMATS[name].suffix}"
        kind.write(program, path, ["x"], [f"y{i}" for i in range(len(expected))])
        results = kind.load(path, "f32", 1)([other])
        for result, wanted in zip(results, expected, strict=True):
            if wanted.dtype == torch.bool:
                assert torch.equal(result.bool(), wanted), name
            else:
                torch.testing.assert_close(
                    result, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()), msg=lambda text: f"{name}: {text}"
                )


@pytest.mark.parametrize("network", [n for n in LIGHT if n.name in REFUSED], ids=ids)
def test_what_cannot_be_exported_says_what_to_do(network):
    with pytest.raises(ValueError, match=f"cannot be exported: .*{REFUSED[network.name]}"):
        check_exportable(dynamic(network))
