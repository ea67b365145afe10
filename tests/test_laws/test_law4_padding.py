"""Law 4: an image's result does not depend on how far the batch was padded, when the valid area is given."""

from types import SimpleNamespace

import pytest
import torch
from network import ids
from networks import LIGHT, scorers_of, unless_often
from part_networks import HEADS, NECKS
from torch import nn

from mmsparse.apis import record_selections
from mmsparse.calls import ignore_padding
from mmsparse.sparsity import num_keep

SIZES = [(96, 128), (70, 128), (96, 33), (50, 90)]
PADDED = (128, 192)  # a multiple of all strides and tiles
# statistics of whole maps, pooling, deformable attention, bilinear resizing and class tokens mix padding in, whatever
# the weights are; and the angles of EVA-02 are of places in a map with its padding, of which scores by attention know
MIX = {
    "convnextv2-atto",
    "vit-micro-cls_token-cumulative",
    "eva02",
    "PAFPN",
    "FCOSHead",
    "ATSSHead",
    "ATSSHead-coarse",
    "GFLHead",
    "RTMDetSepBNHead",
    "UPerHead",
    "FPNHead",
    "ASPPHead",
    "SegHRNet",
    "encoder",
}
NO_MIX = [network for network in LIGHT if network.name not in MIX]
SCORERS = ("LocalGlobalScorer", "FeatureNormScorer", "RandomScorer", "AttentionScorer")


class Model(nn.Module):
    """A network as a library calls it: with data samples."""

    def __init__(self, network):
        super().__init__()
        self.backbone = network
        ignore_padding(self)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.backbone(inputs)


def pictures():
    scales = (0.3, 1.0, 3.0, 0.6)  # contents differ, so do scores
    return [torch.randn(3, *size, dtype=torch.float64) * scale for size, scale in zip(SIZES, scales, strict=True)]


def padded_alone(picture):
    return tuple(-(-side // 32) * 32 for side in picture.shape[1:])


def batch(pictures, size):
    """What a data preprocessor makes of pictures; what lies beyond each one's own padding could be anything."""
    inputs = 3 * torch.randn(len(pictures), 3, *size, dtype=pictures[0].dtype)
    for row, picture in zip(inputs, pictures, strict=True):
        high, wide = padded_alone(picture)
        row[:, :high, :wide] = 0
        row[:, : picture.shape[1], : picture.shape[2]] = picture
    samples = [SimpleNamespace(metainfo=dict(img_shape=p.shape[1:], pad_shape=size)) for p in pictures]
    return inputs, samples


def without_mixing(model):
    """Leave nothing in the dense network by which padding could reach real locations."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
                side = module.kernel_size[0]
                centre = side * module.weight[..., side // 2, side // 2]
                module.weight.zero_()
                module.weight[..., side // 2, side // 2] = centre
            if name.endswith(("attn.proj", "w_msa.proj")):
                module.weight.zero_()
                module.bias.zero_()
        for name, parameter in model.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):  # resized to the batch's
                parameter.zero_()
    return model


@pytest.mark.parametrize(
    "network, scorer, selector",
    [
        *(
            pytest.param(
                network,
                scorer,
                "TopKSelector",
                id=f"{network.name}-{scorer}",
                marks=() if place in (0, 1 + number % 2, 3) else unless_often(network),
            )
            for number, network in enumerate(NO_MIX)
            for place, scorer in enumerate(scorers_of(network, *SCORERS))
        ),
        *(pytest.param(n, "LocalGlobalScorer", "ThresholdSelector", id=f"{n.name}-threshold") for n in NO_MIX),
    ],
)
def test_alone_or_padded(network, scorer, selector):
    """Decisions, and with them the maps, where the dense network itself does not look across the border."""
    net = network.alone(dict(**network.everywhere, selector=dict(type=selector), scorer=dict(type=scorer)))
    model = Model(without_mixing(net)).double().train()  # no near ties that another order of sums could turn
    model(torch.randn(2, 3, 64, 96, dtype=torch.float64))  # lets thresholds see some scores, of other pictures
    model.eval()
    mine = pictures()
    with torch.no_grad():
        together = model(*batch(mine, PADDED))
        for i, picture in enumerate(mine):
            own = padded_alone(picture)
            for alone, mixed in zip(model(*batch([picture], own)), together, strict=True):
                high, wide = (-(-picture.shape[1 + n] * alone.shape[2 + n] // own[n]) for n in (0, 1))
                torch.testing.assert_close(alone[0, :, :high, :wide], mixed[i, :, :high, :wide], rtol=0, atol=1e-10)


@pytest.mark.parametrize("network", [n for n in NO_MIX if n.name in {n.name for n in [*NECKS, *HEADS]}], ids=ids)
def test_what_the_padding_of_a_tile_holds_does_not_matter(network):
    """Without mixing these see the first pixel of each location, which is real where the location counts."""
    net = network.alone(network.everywhere)
    model, mine = Model(without_mixing(net)).eval().double(), pictures()
    inputs, samples = batch(mine, PADDED)
    other = 30 * torch.randn_like(inputs)
    for row, picture in zip(other, mine, strict=True):
        row[:, : picture.shape[1], : picture.shape[2]] = picture
    masks = []
    for x in (inputs, other):
        with torch.no_grad(), record_selections(model) as taken:
            model(x, samples)
        masks.append([selection.keep_mask for _, selection in taken])
    assert len(masks[0]) > 1 and all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_full_pictures_are_as_ever(network):
    net = network.alone(dict(**network.everywhere))
    model = Model(net).eval()
    inputs, samples = batch([torch.randn(3, 64, 96)] * 2, (64, 96))
    with torch.no_grad(), record_selections(model) as taken:
        for told, plain in zip(model(inputs, samples), model(inputs), strict=True):
            assert torch.equal(told, plain)
    assert all(isinstance(selection.count, int) for _, selection in taken)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_padding_takes_nothing_of_the_budget(network, training):
    """Every image keeps the rounded fraction of its own real locations, and no padding."""
    net = network.alone(dict(**network.everywhere))
    model = Model(net).double().train(training)
    with record_selections(model) as taken:
        model(*batch(pictures(), PADDED))
    budgets = {module.name: module.keep_ratio for module in net.modules() if hasattr(module, "selector")}
    assert {name for name, _ in taken} == set(budgets)
    for name, selection in taken:
        for i, size in enumerate(SIZES):
            pixels = [padded // side for padded, side in zip(PADDED, selection.grid, strict=True)]  # of a location
            high, wide = (-(-real // side) for real, side in zip(size, pixels, strict=True))
            mask = selection.keep_mask[i].view(selection.grid)
            assert mask.sum() == num_keep(budgets[name], high * wide) == selection.num_keep[i], (name, i)
            assert mask[:high, :wide].sum() == mask.sum()
        assert selection.keep_idx.tolist() == selection.keep_mask.flatten().nonzero().squeeze(1).tolist()
        assert selection.rest_idx.tolist() == (~selection.keep_mask).flatten().nonzero().squeeze(1).tolist()
