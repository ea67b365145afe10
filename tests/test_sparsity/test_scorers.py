import pytest
import torch
import torch.nn.functional as F

from mmsparse.analysis import count_macs
from mmsparse.models.backbones.block_router import BlockRouter
from mmsparse.ops import operator
from mmsparse.registry import build
from mmsparse.sparsity import (
    AttentionScorer,
    Context,
    FeatureNormScorer,
    Geometry,
    LocalGlobalScorer,
    MLPScorer,
    PeakScorer,
    RandomScorer,
    Scorer,
    ThresholdSelector,
    ratio_loss,
    real_sizes,
    unit_features,
    valid_units,
)


def test_local_global_equals_the_papers_formula():
    """Concatenate the local half with the mean of the other half at every location, then three linear layers."""
    scorer, x = LocalGlobalScorer(16), torch.randn(2, 10, 16)
    for p in scorer.parameters():
        torch.nn.init.normal_(p)
    u = F.gelu(scorer.embed[1](F.layer_norm(x, (16,), scorer.embed[0].weight, scorer.embed[0].bias, 1e-6)))
    z = torch.cat([u[..., :8], u[..., 8:].mean(1, keepdim=True).expand(2, 10, 8)], dim=-1)
    torch.testing.assert_close(scorer(x), scorer.head(z).squeeze(-1), rtol=1e-4, atol=1e-4)


def macs(scorer, locations, channels):
    return count_macs(scorer, lambda: scorer(torch.zeros(1, locations, channels))).total


def test_slim_scorer_costs_a_fifth():
    full, slim = LocalGlobalScorer(64), LocalGlobalScorer(64, hidden=16)
    assert macs(slim, 100, 64) == 100 * (64 * 16 + 8 * 8 + 8 * 4 + 4) + 8 * 8
    assert 0.15 < macs(slim, 100, 64) / macs(full, 100, 64) < 0.22
    assert slim(torch.randn(2, 10, 64)).shape == (2, 10)


def test_mlp_scores_each_location_by_itself():
    scorer, x = MLPScorer(16), torch.randn(2, 10, 16)
    changed = x.clone()
    changed[:, 3] += torch.randn(16)
    differs = scorer(x) != scorer(changed)
    assert differs[:, 3].all() and differs.sum() == 2
    first, second = scorer.layers[1], scorer.layers[3]
    hidden = F.gelu(first(F.layer_norm(x, (16,), eps=1e-6)))
    torch.testing.assert_close(scorer(x), second(hidden).squeeze(-1))


def test_feature_norm_ranks_by_length():
    x = torch.eye(4)[None] * torch.tensor([3.0, 1.0, 4.0, 2.0])[:, None]
    scores = FeatureNormScorer(4)(x)
    assert scores[0].argsort(descending=True).tolist() == [2, 0, 3, 1]
    torch.testing.assert_close(scores.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert list(FeatureNormScorer(4).parameters()) == []


def test_random_scores_know_nothing_and_repeat_in_evaluation():
    scorer = RandomScorer(4)
    x = torch.randn(2, 50, 4)
    assert not torch.equal(scorer(x), scorer(x))
    scorer.eval()
    assert torch.equal(scorer(x), scorer(-x)) and torch.equal(scorer(x)[0], scorer(x)[1])
    other = RandomScorer(4).eval()
    other.index = 1
    assert not torch.equal(scorer(x), other(x))


def test_threshold_gives_crowded_pictures_more():
    selector = ThresholdSelector(momentum=1.0)
    scores = torch.stack([torch.randn(400) - 1, torch.randn(400) + 1])
    selector.train()(scores, Geometry((20, 20)), 0.5, noise=0.0)
    selector.eval()
    for ratio in (0.25, 0.5, 0.8):
        kept = selector(scores, Geometry((20, 20)), ratio).keep_mask.float().mean(1)
        assert kept[1] > kept[0] + 0.2
        assert abs(kept.mean() - ratio) < 0.02


def test_ratio_loss_per_image_and_per_batch():
    gate = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert ratio_loss(gate, 0.25).item() == pytest.approx(0.25**2)
    assert ratio_loss(gate, 0.25, per_image=False).item() == 0.0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="multiple of 4, but got 6"):
        LocalGlobalScorer(6)
    with pytest.raises(ValueError, match=r"`hidden` .*multiple of 4, but got 2"):
        LocalGlobalScorer(8, hidden=2)
    with pytest.raises(ValueError, match="`hidden` to be a positive whole number, but got 0"):
        MLPScorer(8, hidden=0)
    with pytest.raises(ValueError, match="`deep` to be 0 or more convolutions, but got -1"):
        PeakScorer(8, deep=-1)
    with pytest.raises(ValueError) as caught:
        build(dict(type="LocalGlobalScorer", width=3), Scorer, "scorer", channels=8)
    known = "LocalGlobalScorer knows ['channels', 'eps', 'hidden']"
    assert str(caught.value) == f"argument `scorer` has the unknown key 'width'; {known}"


@pytest.mark.parametrize("scorer", [LocalGlobalScorer(16), FeatureNormScorer(16)], ids=lambda s: type(s).__name__)
def test_the_context_is_of_those_alive(scorer):
    """Where some are dropped for good, the others are scored as if these were not there."""
    x = torch.randn(1, 10, 16)
    alive = torch.rand(1, 10) < 0.5
    torch.testing.assert_close(scorer(x, Context(alive=alive))[alive], scorer(x[alive][None])[0], rtol=0, atol=1e-5)


def test_one_scorer_for_all_places():
    router = BlockRouter([2, 4], [16, 64], [(0, 0), (1, 1), (1, 3)], share_scorer=True)
    first, second, third = (decision.scorer for decision in router.decisions.values())
    assert first.body is second.body is third.body and second.adapt is not third.adapt
    assert first.adapt(torch.ones(1)) == 1  # no layer where the channels are as they should be
    own = sum(p.numel() for p in first.body.parameters()) + 2 * (64 * 16 + 16)
    assert sum(p.numel() for name, p in router.named_parameters() if "scorer" in name) == own
    assert macs(third, 100, 64) == macs(first, 100, 16) + 100 * 64 * 16
    assert not third.adapt.bias.any() and third.adapt.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_what_has_nothing_to_share_is_refused():
    with pytest.raises(ValueError, match="`share_scorer`: a KeyNormScorer has nothing to share"):
        BlockRouter([2, 4], [16, 64], [(1, 1)], share_scorer=True, scorer=dict(type="KeyNormScorer"))


def test_attention_is_ranked_by_its_logarithm():
    """Attention sums to one; its logarithm, standardised, is a logit as others are."""

    class Attention:
        def class_row(self, alive):
            return torch.tensor([[0.7, 0.1, 0.2]])

        def column_mass(self, alive):
            return torch.tensor([[0.1, 0.3, 0.6]])

    tokens = torch.randn(1, 3, 16)
    context = Context(attention=Attention())
    scores = AttentionScorer(16)(tokens, context)
    assert scores.argsort().tolist() == [[1, 2, 0]]
    assert scores.mean().item() == pytest.approx(0, abs=1e-6)
    assert scores.std(correction=0).item() == pytest.approx(1, rel=1e-3)
    assert AttentionScorer(16, kind="column")(tokens, context).argsort().tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="`kind` to be one of .* but got 'row'"):
        AttentionScorer(16, kind="row")


@pytest.mark.parametrize("deep", [0, 2])
def test_a_peak_counts_wherever_it_is_in_its_tile(deep):
    """Where a mean would hide it. And the formula: embed, look around, the largest of a tile, its head."""
    scorer = PeakScorer(16, deep=deep)
    x = torch.randn(2, 16, 8, 8) * 0.1
    moved = x.clone()
    x[0, :, 1, 1] += 3.0
    moved[0, :, 2, 2] += 3.0
    geometry = Geometry((8, 8), 4)
    one, other = (scorer(m, Context(geometry)) for m in (x, moved))
    assert one.shape == (2, 4)
    spread = one[0].std()
    assert (one[0] - other[0]).abs().max() < 0.3 * spread
    z = scorer.norm(scorer.few(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for conv in (scorer.around, *scorer.deep):
        z = F.gelu(z + conv(z))
    z = z.unfold(2, 4, 4).unfold(3, 4, 4).amax(dim=(4, 5)).flatten(2).transpose(1, 2)
    expected = scorer.head(scorer.peak(z) + scorer.everywhere(z.mean(1, keepdim=True))).squeeze(-1)
    torch.testing.assert_close(one, expected)


@pytest.mark.parametrize("deep", [0, 2])
def test_peaks_do_not_see_padding(deep):
    scorer, x = PeakScorer(8, deep=deep), torch.randn(1, 8, 6, 7)
    alone = scorer(x, Context(Geometry((6, 7), 4)))
    padded = torch.cat([torch.cat([x, torch.randn(1, 8, 6, 5)], dim=3), torch.randn(1, 8, 6, 12)], dim=2)
    geometry = Geometry((12, 12), 4)
    with real_sizes([(6, 7)], (12, 12)):
        valid = valid_units(geometry, padded)
        scores = scorer(padded, Context(geometry, valid.mask, valid))
    torch.testing.assert_close(scores.view(3, 3)[:2, :2].reshape(1, 4), alone)


def test_peaks_are_learned_where_means_are_not():
    """One location of a tile tells whether it matters, by a direction that is rare elsewhere."""
    torch.manual_seed(0)
    geometry = Geometry((32, 32), 4)

    def batch(seed):
        generator = torch.Generator().manual_seed(seed)
        x, wanted = torch.randn(4, 16, 32, 32, generator=generator), torch.rand(4, 64, generator=generator) < 0.1
        y, z = (torch.randint(0, 4, (4, 8, 8), generator=generator) for _ in range(2))
        b, i, j = wanted.view(4, 8, 8).nonzero(as_tuple=True)
        x[b, 0, 4 * i + y[b, i, j], 4 * j + z[b, i, j]] += 8.0
        return x, wanted

    def found(scorer, seed):
        x, wanted = batch(seed)
        best = scorer(read(x), Context(geometry)).flatten().topk(int(wanted.sum())).indices
        return wanted.flatten()[best].float().mean().item()

    shares = {}
    for scorer in (PeakScorer(16, hidden=8), LocalGlobalScorer(16, hidden=8)):
        optimizer = torch.optim.Adam(scorer.parameters(), 1e-2)
        read = (lambda x: x) if scorer.reads_map else (lambda x: unit_features(x, geometry))
        for step in range(150):
            x, wanted = batch(step)
            loss = F.binary_cross_entropy_with_logits(scorer(read(x), Context(geometry)), wanted.float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        shares[type(scorer)] = sum(found(scorer, 1000 + seed) for seed in range(5)) / 5
    assert shares[PeakScorer] > 0.9
    assert shares[LocalGlobalScorer] < 0.75


@pytest.mark.parametrize("kind", [LocalGlobalScorer, PeakScorer])
def test_what_is_read_is_all_that_is_kept_for_gradients(kind, monkeypatch):
    """And gradients are those of a graph that keeps every step."""
    scorer, x = kind(16), torch.randn(2, 16, 12, 20) if kind.reads_map else torch.randn(2, 240, 16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        scores = scorer(x)
    weights = list(scorer.parameters())
    found = torch.autograd.grad(scores.square().mean(), weights)
    assert sum(kept) == x.numel()
    monkeypatch.setattr(operator, "checkpoint", lambda run, *args, **_: run(*args))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        scores = scorer(x)
    assert sum(kept) > 2 * x.numel()
    for actual, expected in zip(found, torch.autograd.grad(scores.square().mean(), weights), strict=True):
        assert torch.equal(actual, expected)
