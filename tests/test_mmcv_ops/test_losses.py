"""Focal losses through mmcv's functions, which no compiled CPU version of them serves."""

import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
from torch import Tensor
from torch.nn import functional as F

LOGITS = torch.linspace(-4, 5, 35, dtype=torch.float64).view(7, 5)[:, torch.tensor([3, 0, 4, 1, 2])]
LABELS = torch.tensor([0, 1, 4, 2, 2, 3, 0])
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0], dtype=torch.float64)


def plain_sigmoid(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    hit = F.one_hot(labels, logits.shape[1] + 1)[:, :-1].bool()
    p = torch.where(hit, logits.sigmoid(), 1 - logits.sigmoid())
    return torch.where(hit, alpha, 1 - alpha) * (1 - p) ** gamma * -p.log()


def plain_softmax(logits: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    p = logits.softmax(1)[torch.arange(len(labels)), labels]
    return alpha * (1 - p) ** gamma * -p.log()


@pytest.mark.parametrize("loss, plain", [(sigmoid_focal_loss, plain_sigmoid), (softmax_focal_loss, plain_softmax)])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.6)])
def test_values_and_gradients(served, loss, plain, weight, gamma, alpha):
    logits = LOGITS.clone().requires_grad_()
    expected = plain(logits, LABELS, gamma, alpha)
    if weight is not None:
        expected = expected * weight[LABELS].view(-1, *[1] * (expected.dim() - 1))
    torch.testing.assert_close(loss(logits, LABELS, gamma, alpha, weight, "none"), expected)
    (theirs,) = torch.autograd.grad(expected.sum() / 7, logits)
    value = loss(logits, LABELS, gamma, alpha, weight, "mean")
    torch.testing.assert_close(value, expected.sum() / 7)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], theirs)
    assert torch.autograd.gradcheck(lambda logits: loss(logits, LABELS, gamma, alpha, weight, "sum"), logits)


def test_background_and_ignored_labels(served):
    labels = torch.tensor([0, 5, 4, 5, 2, 3, 0])
    logits = LOGITS.clone().requires_grad_()
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, labels, 2.0, 0.25, None, "none"), plain_sigmoid(logits, labels, 2.0, 0.25)
    )
    labels = torch.tensor([0, -1, 4, -100, 2, 3, 0])
    losses = softmax_focal_loss(logits, labels, 2.0, 0.25, None, "none")
    kept = labels >= 0
    torch.testing.assert_close(losses[kept], plain_softmax(logits[kept], labels[kept], 2.0, 0.25))
    (grad,) = torch.autograd.grad(softmax_focal_loss(logits, labels, 2.0, 0.25, None, "sum"), logits)
    assert not losses[~kept].any() and not grad[~kept].any() and grad[kept].all()


def test_no_rows_and_sure_logits(served):
    for loss in (sigmoid_focal_loss, softmax_focal_loss):
        assert loss(LOGITS[:0], LABELS[:0], 2.0, 0.25, None, "sum") == 0
    logits = torch.tensor([[90.0, -90.0]], requires_grad=True)
    for label in (0, 1):
        value = sigmoid_focal_loss(logits, torch.tensor([label]), 2.0, 0.25, None, "sum")
        assert value.isfinite() and torch.autograd.grad(value, logits)[0].isfinite().all()
    half = sigmoid_focal_loss(LOGITS.bfloat16(), LABELS, 2.0, 0.25, None, "none")
    torch.testing.assert_close(half.double(), plain_sigmoid(LOGITS, LABELS, 2.0, 0.25), rtol=0.05, atol=0.05)
    assert half.dtype == torch.bfloat16
