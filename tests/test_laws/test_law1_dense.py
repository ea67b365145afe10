"""Law 1: keep everything = the stock dense module, same weights: outputs and all gradients."""

import pytest
import torch
from network import ids, precise
from networks import ALL, LIGHT, unless_often


def assert_close(actual, expected, what):
    scale = max(1.0, expected.abs().max().item())
    share = 1e-5 if expected.dtype == torch.float32 else 1e-11
    torch.testing.assert_close(actual, expected, rtol=0, atol=share * scale, msg=lambda m: f"{what}: {m}")


@pytest.mark.supports("eager")
@pytest.mark.parametrize(
    "network, size",
    [
        pytest.param(each, size, id=f"{each.name}-{size}", marks=() if size == (200, 333) else unless_often(each))
        for each in ALL
        for size in ((200, 333), (224, 224), (512, 512))
    ],
)
def test_keep_everything_is_dense(network, size):
    stock, dynamic = (model.to(precise(network)) for model in network.pair(dict(keep_ratio=1.0)))
    stock.train(True)
    dynamic.train(True)  # the routed code with everything kept, not the dense shortcut of evaluation
    x = torch.randn(1, 3, *size, dtype=precise(network))
    results = []
    for model in (stock, dynamic):
        image = x.clone().requires_grad_()
        maps = model(image)
        sum((m * torch.linspace(-1, 1, m.shape[-1], dtype=x.dtype)).mean() for m in maps).backward()
        grads = {
            name: p.grad for name, p in model.named_parameters() if "router" not in name and network.apart not in name
        }
        results.append((maps, grads, image.grad))
    (maps, grads, image_grad), (dynamic_maps, dynamic_grads, dynamic_image_grad) = results
    for i, (expected, actual) in enumerate(zip(maps, dynamic_maps, strict=True)):
        assert_close(actual, expected, f"map {i}")
    assert grads.keys() == dynamic_grads.keys()
    for name, grad in grads.items():
        assert_close(dynamic_grads[name].view_as(grad), grad, name)
    assert_close(dynamic_image_grad, image_grad, "image")


@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_evaluation_at_one_and_no_sparsity_are_dense(network):
    stock, dynamic = (model.to(precise(network)) for model in network.pair(dict(keep_ratio=1.0)))
    plain = network.dynamic(sparsity=None).to(precise(network))
    plain.load_state_dict(stock.state_dict())  # strict: nothing new at all
    stock.train(False)
    x = torch.randn(2, 3, 200, 333, dtype=precise(network))
    with torch.no_grad():
        expected = stock(x)
        for model in (dynamic.eval(), plain.eval()):
            for actual, wanted in zip(model(x), expected, strict=True):
                assert_close(actual, wanted, "map")
