"""Heads whose regions are routed: no picture, and as many as there are."""

from types import SimpleNamespace

import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead

from mmsparse.apis import pop_aux, record_selections, set_keep_ratio
from mmsparse.engine import SparsityHook
from mmsparse.models import DynamicFCNMaskHead, DynamicHTCMaskHead
from mmsparse.registry import MODELS
from mmsparse.sparsity import real_sizes
from mmsparse.visualization.keep_maps import slow_share

KWARGS = dict(num_convs=3, in_channels=8, conv_out_channels=8, num_classes=4)


@pytest.fixture
def heads():
    torch.manual_seed(0)
    stock = FCNMaskHead(**KWARGS).double()
    routed = DynamicFCNMaskHead(**KWARGS, sparsity=dict(keep_ratio=0.5, tile=7, learn="gate")).double()
    for parameter in routed.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    stock.load_state_dict({name: value for name, value in routed.state_dict().items() if "router" not in name})
    return stock, routed


def test_everything_kept_is_the_stock_head(heads):
    set_keep_ratio(heads[1], 1.0)
    x = torch.randn(5, 8, 14, 14, dtype=torch.float64)
    results = []
    for head in heads:
        head.train()
        head(x).square().mean().backward()
        grads = {name: p.grad for name, p in head.named_parameters() if "router" not in name}
        pop_aux(head)
        results.append((head(x), grads))
    (expected, grads), (actual, ours) = results
    torch.testing.assert_close(actual, expected)
    for name, grad in grads.items():
        torch.testing.assert_close(ours[name], grad, msg=name)


def test_each_region_keeps_its_own_tiles_whoever_is_beside_it(heads):
    routed = heads[1].eval()
    x = torch.randn(6, 8, 14, 14, dtype=torch.float64)
    with torch.no_grad(), record_selections(routed) as taken:
        together = routed(x)
        with real_sizes([(20, 30)] * 6, (28, 56)):  # as many pictures as regions, and padded
            torch.testing.assert_close(routed(x), together)
        torch.testing.assert_close(torch.cat([routed(region) for region in x.split(1)]), together)
    assert {name for name, _ in taken} == {"mask_head.regions"}
    assert all(set(selection.num_keep) == {2} for _, selection in taken)  # of four
    assert (slow_share(taken, (64, 64)) == 1).all()  # what is chosen in regions is nowhere on the picture
    assert not torch.allclose(together, heads[0].eval()(x), atol=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_no_regions(heads, training):
    stock, routed = (head.train(training) for head in heads)
    x = torch.zeros(0, 8, 14, 14, dtype=torch.float64)
    assert routed(x).shape == stock(x).shape == (0, 4, 28, 28)
    assert pop_aux(routed) == []


def test_labels_of_pictures_teach_nothing_of_regions(heads):
    """They say where objects are on the picture; two regions beside two pictures would be taken for them."""
    routed = heads[1].train()
    hook = SparsityHook(score_weight=1.0)
    call = SimpleNamespace(inputs=torch.zeros(2, 3, 64, 64), samples=[None, None])
    routed(torch.randn(2, 8, 14, 14, dtype=torch.float64)).mean().backward()
    assert hook.losses(routed, call, pop_aux(routed)).keys() == {"loss_sparsity", "keep_ratio/mask_head.regions"}
    routed(torch.zeros(0, 8, 14, 14, dtype=torch.float64))  # a step may have none
    assert hook.losses(routed, call, pop_aux(routed)) == {}


def test_a_step_may_ask_it_several_times():
    """As HTC asks the heads of earlier stages for what the later ones begin with; in a loop of one's own, too."""
    head = DynamicHTCMaskHead(**KWARGS, with_conv_res=False, sparsity=dict(keep_ratio=0.5))
    with pytest.raises(AssertionError):
        head(torch.randn(2, 8, 14, 14), return_logits=False, return_feat=False)  # the stock class's own words
    logits = head(torch.randn(2, 8, 14, 14), return_feat=False)
    features = head(torch.randn(3, 8, 14, 14), return_logits=False)
    assert logits.shape == (2, 4, 28, 28) and features.shape == (3, 8, 14, 14)
    assert len(pop_aux(head)) == 2


@pytest.mark.parametrize("kind", ["Shared4Conv1FCBBoxHead", "ConvFCBBoxHead"])
def test_boxes_of_regions(kind):
    sizes = dict(in_channels=8, conv_out_channels=8, fc_out_channels=8, num_classes=4)
    sizes |= {} if kind.startswith("Shared") else dict(num_shared_convs=2, num_shared_fcs=1)
    head = MODELS.build(dict(type=f"mmsparse.Dynamic{kind}", **sizes, sparsity=dict(keep_ratio=0.5))).eval()
    with torch.no_grad(), record_selections(head) as taken:
        scores, boxes = head(torch.randn(6, 8, 7, 7))
        empty, _ = head(torch.randn(0, 8, 7, 7))
    assert (scores.shape, boxes.shape, empty.shape) == ((6, 5), (6, 16), (0, 5))
    assert [name for name, _ in taken] == ["bbox_head.regions"]
    assert list(taken[0][1].num_keep) == [2] * 6  # of four
