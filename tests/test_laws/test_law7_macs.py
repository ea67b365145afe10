"""Law 7: counted MACs = traced MACs; the paper's FLOPs columns come out."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from counting import macs_of
from mmengine.analysis import FlopAnalyzer
from network import ids
from networks import convnext, swin
from part_networks import HEADS, NECKS
from plain_networks import CUMULATIVE, ENTERING, VIT_EVERYWHERE, beit, deit, eva02, sam, vit

from mmsparse.analysis import count_macs
from mmsparse.apis import dense_twin
from mmsparse.models.convs import ConvRouter, RoutedConv2d

PAGE = Path(__file__).parents[2] / "docs/budgets.md"
SIZES = [(75, 101), pytest.param((96, 160), marks=pytest.mark.slow)]
# released model zoo of DynamicViT, GFLOPs at 224x224
OFFICIAL = [
    (convnext("tiny"), 0.7, 3.6),
    (convnext("small"), 0.7, 5.8),
    (convnext("base"), 0.7, 10.2),
    (convnext("tiny"), 0.9, 3.9),
    pytest.param(*(convnext("small"), 0.9, 6.8), marks=pytest.mark.slow),
    pytest.param(*(convnext("base"), 0.9, 11.9), marks=pytest.mark.slow),
    (swin("tiny"), 0.7, 4.0),
    (swin("small"), 0.7, 6.9),
    (swin("base"), 0.7, 12.1),
    (deit("deit-small"), 0.7, 2.9),
    (deit("deit-base"), 0.7, 11.4),
]


def traced(model, x):
    """mmengine's own analyzer, arithmetic only (it counts norms too); it knows no fused attention."""
    analyzer = FlopAnalyzer(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analyzer.set_op_handle("aten::scaled_dot_product_attention", _attention)
    return sum(count for op, count in analyzer.by_operator().items() if op in ("conv", "linear", "matmul", "attention"))


def _attention(inputs, outputs):
    """Two matrix products of (B, heads, n, d) with (B, heads, m, d)."""
    (batch, heads, n, d), m = inputs[0].type().sizes(), inputs[1].type().sizes()[2]
    return Counter(attention=2 * batch * heads * n * m * d)


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("network, ratio, official", OFFICIAL, ids=lambda v: getattr(v, "name", str(v)))
def test_official_table(network, ratio, official):
    model = network.dynamic(sparsity=dict(keep_ratio=ratio)).eval()
    x = torch.randn(1, 3, 224, 224)
    counted = count_macs(model, lambda: model(x)).total
    assert counted == traced(model, x)
    # Our scorer applies the context half of its first head layer once per image: up to 0.03 G less than the paper's.
    assert abs(counted / 1e9 - official) <= 0.1


def scorings():
    """Every scorer with either fast path; the one that does nothing is quick with the default scorer alone."""
    often = [dict(type=name) for name in ("LocalGlobalScorer", "MLPScorer", "KeyNormScorer", "AttentionScorer")]
    often.append(dict(type="AttentionScorer", kind="column"))
    for scorer in (*often, dict(type="FeatureNormScorer"), dict(type="RandomScorer")):
        for fast in ("LinearFastPath", "IdentityFastPath"):
            quick = scorer in often and (fast == "LinearFastPath" or scorer == often[0])
            marks = () if quick else pytest.mark.slow
            yield pytest.param(scorer, fast, id="-".join((*scorer.values(), fast)), marks=marks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scorer, fast", scorings())
@pytest.mark.parametrize(
    "network",
    [
        *(convnext("atto"), convnext("atto", v2=True), swin("micro")),
        *(vit(VIT_EVERYWHERE), vit(CUMULATIVE), vit(ENTERING), beit(VIT_EVERYWHERE), sam(), eva02()),
    ],
    ids=ids,
)
def test_counted_is_traced(network, scorer, fast, size):
    sparsity = dict(**network.everywhere, scorer=scorer, fast_path=dict(type=fast))
    if scorer["type"] in ("AttentionScorer", "KeyNormScorer") and not network.attends:
        with pytest.raises(ValueError, match=f"{scorer['type']} reads attention, which this backbone lacks"):
            network.dynamic(sparsity=sparsity)
        return
    model = network.dynamic(sparsity=sparsity).eval()
    x = torch.randn(1, 3, *size)
    assert count_macs(model, lambda: model(x)).total == traced(model, x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("network", NECKS + HEADS, ids=ids)
def test_necks_and_heads_run_what_their_selections_say(network, size):
    """Dense arithmetic, less what the unselected tiles save, and the scorers'."""
    model = network.alone(network.everywhere)
    model.eval()
    x = torch.randn(1, 3, *size)
    convs = [module for module in model.modules() if isinstance(module, RoutedConv2d)]
    chosen = []  # (convolution, its map, selection) of each call
    for conv in convs:
        conv.register_forward_pre_hook(lambda conv, args: chosen.append((conv, args[0], None)))
    find = ConvRouter.selection_for

    def noted(router, name, x):
        conv, x, _ = chosen.pop()
        chosen.append((conv, x, find(router, name, x)))
        return chosen[-1][2]

    with dense_twin(model):
        dense = count_macs(model, lambda: model(x)).total
    chosen.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConvRouter, "selection_for", noted)
        executed = count_macs(model, lambda: model(x))
    tile, expected = network.everywhere["tile"], dense + executed.scorers
    for conv, image, selection in chosen:
        if selection is None:
            continue
        locations = image.shape[-2] * image.shape[-1]
        rows = 1 if network.everywhere.get("coarse") else tile**2  # that the fast path sees of a tile
        kept, rest = tile**2 * len(selection.keep_idx), rows * len(selection.rest_idx)
        expected += (kept - locations) * conv.weight.numel() + rest * conv.in_channels * conv.out_channels
    assert executed.total == expected == traced(model, x)


@pytest.mark.usefixtures("unfilled")
def test_every_number_of_the_readme():
    names = ["tiny", "small", "base"]
    networks = [*map(convnext, names), *map(swin, names), deit("deit-small"), deit("deit-base")]
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in PAGE.read_text().splitlines() if "|" in line}
    for title, sparsity in (("dense", None), ("`keep_ratio=0.9`", {"keep_ratio": 0.9}), ("`keep_ratio=0.7`", {})):
        shown = [float(cell) for cell in rows[title]]
        assert shown == [round(macs_of(n.dynamic(sparsity=sparsity), 224, 224, "meta") / 1e9, 2) for n in networks]
    shown = [float(cell) for cell in rows["the paper's models at 0.7 (theirs)"]]
    assert shown == [official for _, ratio, official in OFFICIAL if ratio == 0.7]
