"""Sparsifiner: keys against brute force, attention among them against masks, both stages, the paper's MACs."""

import re

import pytest
import torch
import torch.nn.functional as F
from commands import tool
from counting import macs_of
from mmengine.registry import PARAM_SCHEDULERS
from mmpretrain.models import VisionTransformer
from scenes import options

from mmsparse.apis import dense_twin, get_keep_ratio, set_keep_ratio
from mmsparse.configs import read_config
from mmsparse.engine.teacher_hook import TeacherHook
from projects.sparsifiner import ConnectivityHook, SparsifinerViT
from projects.sparsifiner.basis import Tiles, resize
from projects.sparsifiner.draw_keys import key_shares, occupied_blocks, record_keys
from projects.sparsifiner.sparse_attention import attend_to, columns_of, keys_of, top_mask

CONFIG = "projects/sparsifiner/configs/sparsifiner-vit-nano_k10_fcn_scenes.py"
MICRO = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)


def enlivened(model):
    """Values of which none is near another, so that rounding decides nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0 if parameter.dim() > 1 else 0.5, parameter[0].numel() ** -0.5)
    return model


def build(reconstructing=False, lively=True, connectivity=None, **more):
    chosen = dict(keep_ratio=0.2, coefficients=3, **(connectivity or {}))
    model = SparsifinerViT(**{**dict(arch=MICRO, img_size=96, out_type="featmap", connectivity=chosen), **more})
    model.predictor.reconstructing = reconstructing
    return enlivened(model) if lively else model


@pytest.mark.parametrize("values", ["distinct", "tied", "hidden"])
@pytest.mark.parametrize("count", [1, 4, 10, 12])
def test_the_largest_of_each_row_and_of_equal_ones_the_first(values, count):
    scores = torch.randn(50, 10)
    if values == "tied":
        scores = scores.round()
    if values == "hidden":
        scores = scores.masked_fill(torch.rand(50, 10) < 0.5, -torch.inf)
    mask = top_mask(scores, count)
    for row, taken in zip(scores.tolist(), mask.tolist(), strict=True):
        best = sorted(range(10), key=lambda j: (-row[j], j))[:count]
        assert [j for j in range(10) if taken[j]] == sorted(j for j in best if row[j] > -torch.inf)
    assert torch.equal(top_mask(scores, count, 0.3), mask & (scores > 0.3))


@pytest.mark.parametrize("same", [True, False], ids=["as-many", "more-or-less"])
def test_attention_to_listed_keys_is_masked_attention(same):
    query, key, value = torch.randn(6, 8), torch.randn(9, 8), torch.randn(9, 5)
    mask = top_mask(torch.randn(6, 9), 4) if same else torch.rand(6, 9) < 0.4
    mask[2] = mask[2] & same  # a query without keys
    columns, counts = columns_of(mask)
    assert isinstance(counts, int) == same
    expected = ((query @ key.t()) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(dim=1).nan_to_num() @ value
    torch.testing.assert_close(attend_to(query, key, value, columns, counts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cells", [(4, 6), (5, 3), (1, 1)])
def test_tiles_hold_every_location_once(cells):
    tiles = Tiles(cells, 2)
    members = tiles.members()
    assert sorted(members[members >= 0].tolist()) == list(range(cells[0] * cells[1]))
    for tile, row in enumerate(members.tolist()):
        assert [tiles.of_cells()[cell] for cell in row if cell >= 0] == [tile] * sum(cell >= 0 for cell in row)
    everything = torch.arange(len(members)).repeat(2, 1)
    columns, missing = keys_of(everything, members, extra=1)
    for row in range(2):
        there = columns[row] if missing is None else columns[row][~missing[row]]
        assert sorted(there.tolist()) == list(range(1 + cells[0] * cells[1]))


def test_a_basis_keeps_its_sums_on_another_grid():
    values = torch.rand(3, 1 + 6 * 8)
    assert resize(values, 1, (6, 8), (6, 8)) is values
    finer = resize(values, 1, (6, 8), (18, 24))
    assert torch.equal(finer[:, :1], values[:, :1]) and finer.min() >= 0
    flat = resize(torch.full((1, 48), 0.5), 0, (6, 8), (3, 16))
    torch.testing.assert_close(flat, torch.full((1, 48), 0.5))
    torch.testing.assert_close(finer[:, 1:].sum(1), values[:, 1:].sum(1), rtol=0.05, atol=0)


def choice_by_hand(predictor, query, key, count):
    """The released algorithm, step by step, for queries and keys (heads, n, d) with one class token."""
    heads, total, _ = query.shape
    reduced_query, reduced_key = predictor.query(query), predictor.key(key)
    tokens = torch.einsum("hnc,mn->hcm", reduced_key, predictor.down)
    coefficients = (torch.einsum("hnc,hcm->hnm", reduced_query, tokens) * heads**-0.5).softmax(dim=-1)[:, 1:]
    guess = coefficients @ predictor.up
    basis = predictor.up.abs() * (predictor.up.abs() > 0.02)
    seen = torch.zeros(heads, total, total, dtype=torch.bool)
    seen[:, 0] = True
    for head in range(heads):
        for row in range(total - 1):
            own = coefficients[head, row]
            left = torch.zeros_like(own)
            best = own.argsort(descending=True)[: predictor.shape.coefficients]
            left[best] = own[best]
            seen[head, row + 1, (left @ basis).argsort(descending=True)[:count]] = True
    return guess, seen


def test_a_block_is_the_released_algorithm():
    model = build().double()  # near ties are ordered the same
    x, layer = torch.randn(1, 37, 48, dtype=torch.float64), model.layers[1]
    query, key, value = layer.attn.qkv(layer.ln1(x)).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    predictor = model.predictor.predictors["1"]
    guess, seen = choice_by_hand(predictor, query[0], key[0], count=8)  # 7.4 of 37, rounded up
    torch.testing.assert_close(predictor.approximate(query, key, (6, 6))[0], guess, rtol=0, atol=1e-10)
    weights = (query[0] @ key[0].transpose(-1, -2) / 4).masked_fill(~seen, -torch.inf).softmax(dim=-1)
    mixed = (weights @ value[0]).transpose(0, 1).flatten(1)
    expected = x + layer.attn.proj(mixed)
    expected = layer.ffn(layer.ln2(expected), identity=expected)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()._dense(1, x, (6, 6)), expected, rtol=0, atol=1e-10)


SPARSITY = dict(places=[1, 2], keep_ratio=[0.6, 0.4])
SETTINGS = {
    "class-token": dict(),
    "no-class-token": dict(with_cls_token=False),
    "threshold": dict(connectivity=dict(threshold=0.12)),
    "tiles": dict(connectivity=dict(tile=2)),
    "odd-tiles": dict(connectivity=dict(tile=2), img_size=80),
    "tiles-no-class-token": dict(connectivity=dict(tile=3), with_cls_token=False),
    "tokens": dict(sparsity=SPARSITY),
    "tokens-differ": dict(sparsity={**SPARSITY, "selector": dict(type="ThresholdSelector")}),
}


@pytest.mark.parametrize("size", [(96, 96), (112, 80)], ids=["grid", "other-grid"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_sparse_execution_equals_masked_attention(setting, size, monkeypatch):
    """Evaluation twice: gathered keys, and masks as while training; and it is not dense."""
    model = build(**SETTINGS[setting]).double()  # near ties are ordered the same
    scales = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64).view(3, 1, 1, 1)
    model.train()(torch.randn(2, 3, 96, 96) * scales[:2])  # lets thresholds see some scores
    x = torch.randn(3, 3, *size) * scales
    model.eval()
    with torch.no_grad():
        (sparse,) = model(x)
        with dense_twin(model):
            (dense,) = model(x)
    (masked,) = model(x.requires_grad_())  # what needs gradients goes by the masks
    torch.testing.assert_close(sparse, masked, rtol=0, atol=1e-10)
    assert (sparse - dense).abs().max() > 1e-2
    if setting == "threshold":
        monkeypatch.setattr(
            "projects.sparsifiner.connectivity.top_mask", lambda scores, count, _=None: top_mask(scores, count)
        )
        with torch.no_grad():
            assert (model(x)[0] - sparse).abs().max() > 1e-2


def test_keeping_all_keys_is_the_stock_network():
    model = build(lively=False, connectivity=dict(blocks=[1, 3]))
    stock = VisionTransformer(arch=MICRO, img_size=96, out_type="featmap")
    stock.eval()  # returns nothing
    loaded = model.load_state_dict(stock.state_dict(), strict=False)
    assert not loaded.unexpected_keys and all(key.startswith("predictor.") for key in loaded.missing_keys)
    x = torch.randn(2, 3, 96, 96)
    assert get_keep_ratio(model) == {"keys/b1": 0.2, "keys/b3": 0.2}
    set_keep_ratio(model, 1.0)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)(x), stock(x), rtol=0, atol=1e-5)


def test_predictors_are_freed_of_the_class_token_and_refuse_another_grid():
    with_class, without = build(), build(with_cls_token=False)
    without.load_state_dict(with_class.state_dict(), strict=False)
    ours, theirs = (model.predictor.predictors["2"].up for model in (without, with_class))
    assert torch.equal(ours, theirs[:, 1:])
    with pytest.raises(
        ValueError, match=r"basis has 6 maps of 37 tokens, but this network's has 10 of 65 \(grid \(8, 8\)"
    ):
        build(img_size=128).load_state_dict(with_class.state_dict(), strict=False)


# Figure "MHSA MFLOPs" of the paper: queries times keys, weights times values, and the predictor; DeiT-S at 224
FIGURE = {0.1: 111.4e6, 0.3: 183.6e6, 0.5: 254.2e6}


def attention_macs(predictor, tokens, zeros):
    """The predictor's arithmetic and that of its sparse attention; of products with zeros of the basis none count."""
    shape, grid = predictor.shape, predictor.shape.grid
    queries, dims, rank = tokens - shape.extra, shape.head_dims, shape.rank
    guess = queries * shape.coefficients * tokens
    if not zeros:
        basis = predictor._basis(grid, None)
        guess = round(guess * basis.count_nonzero().item() / basis.numel())
    reduced = tokens * dims * rank + (2 * dims + 1) * rank * shape.channels + queries * dims * rank
    return shape.heads * (reduced + guess + 2 * dims * (queries * predictor.num_keys(grid) + shape.extra * tokens))


@pytest.mark.parametrize("keep_ratio", FIGURE)
def test_macs_of_attention_are_the_papers(keep_ratio):
    """With zeros of the untrained basis not counted; nobody published how the paper counts."""
    model = SparsifinerViT(arch="deit-small", connectivity=dict(keep_ratio=keep_ratio))
    predictors = model.predictor.dials
    counted = sum(attention_macs(predictor, 197, zeros=False) for predictor in predictors)
    assert counted == pytest.approx(FIGURE[keep_ratio], rel=0.02)
    with_zeros = sum(attention_macs(predictor, 197, zeros=True) for predictor in predictors)
    dense = macs_of(SparsifinerViT(arch="deit-small"), 224, 224) - 12 * 2 * 197**2 * 384
    assert macs_of(model, 224, 224) == dense + with_zeros


class Classifier(torch.nn.Module):
    def __init__(self, **more):
        super().__init__()
        self.backbone = build(reconstructing=True, lively=False, **more)
        self.head = torch.nn.Linear(48, 5)

    def forward(self, inputs, data_samples=None, mode="loss"):
        (maps,) = self.backbone(inputs)
        loss = F.cross_entropy(self.head(maps.mean(dim=(2, 3))), data_samples)
        return dict(loss_cls=loss, loss_parts=[loss, loss], accuracy=loss.detach())


def step(model, optimizer):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = model(torch.randn(4, 3, 96, 96), torch.arange(4), mode="loss")
    parts = [part for value in losses.values() for part in (value if isinstance(value, list) else [value])]
    optimizer.zero_grad()
    sum(part for part in parts if part.requires_grad).backward()
    assert all(p.grad is not None for p in model.parameters())  # what DDP asks for
    optimizer.step()
    return losses, {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


def test_each_stage_trains_its_own_parameters():
    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    hook = ConnectivityHook(reconstruct=0.25)
    hook.attach(model, optimizer)
    names = {name for name, _ in model.named_parameters()}
    predictors = {name for name in names if ".predictor." in name}
    hook.set_progress(0.0)
    losses, moved = step(model, optimizer)
    assert moved == predictors
    assert losses["loss_cls"] == 0 and losses["loss_parts"] == [0, 0] and losses["accuracy"] > 0
    hook.set_progress(0.25)
    losses, moved = step(model, optimizer)
    assert moved == names - predictors
    assert losses["loss_cls"] > 0 and losses["loss_connectivity"] == 0


def test_the_first_stage_learns_the_attention():
    """Its error is that of the released loss, by hand, and falls."""
    model = Classifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    hook = ConnectivityHook(loss_weight=2.0)
    hook.attach(model, optimizer)
    hook.set_progress(0.0)
    x = torch.randn(2, 3, 96, 96)
    asked = []
    for layer in model.backbone.layers:
        layer.attn.qkv.register_forward_hook(lambda _, __, output: asked.append(output))
    loss = model(x, torch.arange(2), mode="loss")["loss_connectivity"]
    expected = 0.0
    for block, qkv in enumerate(asked[1::2]):  # behind those that the predictors were given
        query, key, _ = qkv.unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.transpose(-1, -2) / 4).softmax(dim=-1)[:, :, 1:]
        guess = model.backbone.predictor.predictors[str(block)].approximate(query, key, (6, 6))
        expected += 2.0 * (attention - guess).square().sum() / 2 / 4
    torch.testing.assert_close(loss, expected)
    history = [step(model, optimizer)[0]["loss_connectivity"].item() for _ in range(60)]
    assert history[-1] < 0.3 * history[0]


def test_losses_of_other_hooks_rest_in_the_first_stage():
    model = Classifier().train()
    TeacherHook("self", logit_weight=0.0).attach(model)
    hook = ConnectivityHook(reconstruct=0.25)
    hook.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for progress, rests in ((0.0, True), (0.25, False)):
        hook.set_progress(progress)
        losses = model(torch.randn(2, 3, 96, 96), torch.arange(2), mode="loss")
        assert (losses["loss_distill_feat"] == 0) == rests == (losses["loss_connectivity"] > 0)


def test_what_nobody_collects_is_told():
    model = build(reconstructing=True).train()
    model(torch.randn(1, 3, 96, 96))
    with pytest.raises(RuntimeError, match=r"custom_hooks=\[dict\(type='mmsparse.ConnectivityHook'\)\]"):
        model(torch.randn(1, 3, 96, 96))
    hook = ConnectivityHook()
    with pytest.raises(ValueError, match="Linear has no predictors"):
        hook.attach(torch.nn.Linear(1, 1), None)


def test_a_twin_teaches_densely():
    model = Classifier(connectivity=dict(blocks=[0, 1]))
    hook = TeacherHook(logit_weight=0.0)
    hook.attach(model)
    assert set(get_keep_ratio(hook.parts).values()) == {0.2}  # but it is asked as the dense twin
    model.backbone.predictor.reconstructing = False
    x = torch.randn(2, 3, 96, 96)
    loss = model.train()(x, torch.arange(2), mode="loss")["loss_distill_feat"]
    with torch.no_grad(), dense_twin(model):
        dense = model.eval().backbone(x)[0]
    model.train()
    torch.testing.assert_close(loss, 0.5 * F.mse_loss(model.backbone(x)[0], dense))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(connectivity=[0.1]), "Expected argument `connectivity` to be a dict or None"),
        (dict(connectivity=dict(keep=0.1)), "unknown key 'keep'; it knows"),
        (dict(connectivity=dict(keep_ratio=0.0)), r"`keep_ratio` to be in \(0, 1\], but got 0.0"),
        (dict(connectivity=dict(keep_ratio=[0.1, 0.2])), "one for each of the 4 blocks with a predictor"),
        (dict(connectivity=dict(blocks=[4])), r"`blocks` .* of \[0, 1, 2, 3\], but got \[4\]"),
        (dict(connectivity=dict(blocks=3)), r"`blocks` .* of \[0, 1, 2, 3\], but got 3"),
        (dict(connectivity=dict(tile="2"), sparsity={}), "`tile` to be a positive whole number, but got '2'"),
        (dict(connectivity=dict(rank=5)), "`coefficients` to be at most .* which is 5 for 65 tokens, but got 8"),
        (dict(connectivity=dict(tile=0)), "`tile` to be a positive whole number"),
        (dict(connectivity=dict(threshold=-1)), "`threshold` to be a number >= 0"),
        (dict(connectivity=dict(tile=2), sparsity={}), "tile=2 is for whole maps"),
        (
            dict(connectivity={}, sparsity=dict(cumulative=True, keys="entering")),
            "keys='entering' and `connectivity` both say",
        ),
    ],
    ids=str,
)
def test_mistakes(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        SparsifinerViT(arch=MICRO, img_size=128, **arguments)


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "all"])
def test_mistakes_of_the_hook(value):
    with pytest.raises(ValueError, match="`reconstruct` to be a fraction of the training"):
        ConnectivityHook(reconstruct=value)


def test_blocks_with_windows_stay_dense():
    shared = dict(with_cls_token=False, window_size=3, global_attn_indexes=[1, 3])
    model = build(**shared)
    assert list(model.predictor.predictors) == ["1", "3"]
    with pytest.raises(ValueError, match=r"without windows, of \[1, 3\], but got \[0\]"):
        build(connectivity=dict(blocks=[0]), **shared)


def test_trains_and_evaluates(scenes, tmp_path):
    """Both stages, by the tools."""
    args = options(scenes, iters=4, load_from="None")
    text = tool("train", CONFIG, "--work-dir", str(tmp_path), *args)
    assert text.count("loss_connectivity") >= 4
    text = tool(
        "test", CONFIG, str(tmp_path / "iter_4.pth"), "--macs-pictures", "1", "--work-dir", str(tmp_path), *args
    )
    assert "'keys/b5': 0.1" in text
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < dense


def test_the_schedule_is_the_released_one():
    """Read off at the ends of the released stages' warm-ups and cosines."""
    cfg = read_config("projects/sparsifiner/configs/sparsifiner-deit-s_k25_8xb168-50e_in1k.py")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    length = 10  # iterations of an epoch
    schedulers = []
    for scheduler in cfg.param_scheduler:
        scheduler = {key: value for key, value in scheduler.items() if key != "convert_to_iter_based"}
        cls = PARAM_SCHEDULERS.get(scheduler.pop("type"))
        schedulers.append(cls.build_iter_from_epoch(optimizer, epoch_length=length, **scheduler))
    rates = []
    for _ in range(50 * length):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    at = {3: 3e-4, 8: 8e-5}
    assert rates[0] < 1e-8 and rates[5 * length] < 1e-8 and rates[-1] == pytest.approx(2e-6, rel=0.05)
    assert rates[5 * length - 1] == pytest.approx(2e-4, rel=0.02)
    for epoch, rate in at.items():
        assert rates[epoch * length] == pytest.approx(rate, rel=0.05)


def test_drawn_shares_are_those_of_the_masks():
    model = build().eval()
    with torch.no_grad(), record_keys(model) as masks:
        model(torch.randn(1, 3, 96, 96))
    assert len(masks) == 4 and "attend" not in vars(model.predictor.predictors["0"])
    assert all((mask[:, :, 1:].sum(-1) == 8).all() and mask[:, :, 0].all() for mask in masks)
    share = key_shares(masks, 1, (6, 6), (2, 3))
    for row in range(6):
        for column in range(6):
            attending = [
                mask[0, head, 1 + 2 * 6 + 3, 1 + row * 6 + column].item() for mask in masks for head in range(3)
            ]
            assert share[row, column] == pytest.approx(sum(attending) / 12)


def test_keys_of_tiles_are_drawn_too():
    model = build(connectivity=dict(tile=2)).eval()
    with torch.no_grad(), record_keys(model) as masks:
        model(torch.randn(1, 3, 96, 96))
    squares = masks[0][:, :, 1:, 1:].unflatten(-1, (3, 2, 3, 2)).float().mean(dim=(-3, -1))
    assert set(squares.unique().tolist()) == {0.0, 1.0}


def test_occupied_blocks_by_hand():
    mask = torch.zeros(1, 2, 5, 5, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 0, 1, 1] = mask[0, 1, 4, 4] = True  # one of nine blocks of each head, the last one small
    assert occupied_blocks([mask, ~mask], side=2) == pytest.approx((2 / 18 + 17 / 18) / 2)
