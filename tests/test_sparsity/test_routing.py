"""The merged training against its definition, written out with both paths everywhere."""

import ast
import re

import pytest
import torch

from mmsparse.models.backbones.block_router import BlockRouter
from mmsparse.registry import MODELS
from mmsparse.sparsity import (
    Decider,
    FastPath,
    Geometry,
    GumbelSelector,
    LocalGlobalScorer,
    MLPScorer,
    Paths,
    Scorer,
    Selection,
    Selector,
    ThresholdSelector,
    TopKSelector,
    take_paths,
)


def case(explore=1.0):
    torch.manual_seed(1)
    slow, fast = torch.nn.Linear(6, 6).double(), torch.nn.Linear(6, 6).double()
    rows = torch.randn(40, 6, dtype=torch.float64, requires_grad=True)
    logits = torch.randn(2, 20, dtype=torch.float64, requires_grad=True)
    mask = logits > 0.3
    soft = logits.sigmoid()
    weight = torch.randn(40, 6, dtype=torch.float64)
    return slow, fast, rows, logits, Selection(Geometry((4, 5)), mask, gate=mask + (soft - soft.detach())), weight


def gradients(y, slow, fast, rows, logits, weight):
    inputs = [rows, logits, *slow.parameters(), *fast.parameters()]
    return torch.autograd.grad((y * weight).sum(), inputs, retain_graph=True)


def test_value_and_every_gradient_equal_the_definition():
    slow, fast, rows, logits, selection, weight = case()
    gate = selection.gate.flatten()[:, None]
    defined = gate * slow(rows) + (1 - gate) * fast(rows)
    routed = take_paths(rows, selection, lambda r, _: slow(r), lambda r, _: fast(r))
    torch.testing.assert_close(routed, defined)
    _, to_gates, *_ = ours = gradients(routed, slow, fast, rows, logits, weight)
    for a, b in zip(ours, gradients(defined, slow, fast, rows, logits, weight), strict=True):
        exactness = 1e-5 if a is to_gates else 1e-10  # those of the gates are summed in single precision
        torch.testing.assert_close(a, b, rtol=0, atol=exactness)


def test_exploring_a_part_is_unbiased():
    slow, fast, rows, logits, selection, weight = case()

    def gate_gradient(explore):
        y = take_paths(rows, selection, lambda r, _: slow(r), lambda r, _: fast(r), explore)
        return torch.autograd.grad((y * weight).sum(), logits, retain_graph=True)[0]

    full = gate_gradient(1.0)
    kept = selection.keep_mask
    draws = torch.stack([gate_gradient(0.3) for _ in range(3000)])
    torch.testing.assert_close(
        draws[:, kept], full[kept].expand(3000, -1), rtol=0, atol=1e-5
    )  # kept rows are always known
    torch.testing.assert_close(draws.mean(0), full, rtol=0.15, atol=0.05)
    assert (draws[0][~kept] == 0).sum() > 0  # and the rest is really sampled


def test_slow_path_sees_only_its_rows_in_evaluation():
    rows, seen = torch.randn(12, 3), []
    selection = Selection(Geometry((3, 4)), torch.tensor([[True] * 5 + [False] * 7]))

    def slow(packed, idx):
        seen.append(idx.tolist())
        return packed * 2

    y = take_paths(rows, selection, slow, lambda r, _: r * 0)
    assert seen == [[0, 1, 2, 3, 4]]
    assert torch.equal(y[:5], rows[:5] * 2) and not y[5:].any()


def decision(**kwargs):
    made = Decider("s0b0", LocalGlobalScorer(8), TopKSelector(), **kwargs)
    made.keep_ratio = 0.5
    return made


def test_forgotten_hook_is_named_at_the_second_training_step():
    place = decision().train()
    tokens = torch.randn(1, 6, 8)
    place(tokens, Geometry((2, 3)))
    with pytest.raises(RuntimeError, match=r"'s0b0'.*custom_hooks=\[dict\(type='mmsparse.SparsityHook'\)\]"):
        place(tokens, Geometry((2, 3)))
    assert len(place.pop_aux()) == 1 and place.pop_aux() == []
    place(tokens, Geometry((2, 3)))
    place.eval()
    place(tokens, Geometry((2, 3)))  # evaluation leaves nothing and needs no hook
    with torch.no_grad():
        place.train()(tokens, Geometry((2, 3)))
    assert len(place.pop_aux()) == 1


def test_scorers_read_detached_features_unless_asked():
    for detach in (True, False):
        tokens = torch.randn(1, 6, 8, requires_grad=True)
        selection = decision(detach=detach).train()(tokens, Geometry((2, 3)))
        (selection.gate * torch.randn(1, 6)).sum().backward()
        assert (tokens.grad is None) == detach


def test_training_starts_dense_and_ends_at_the_budget():
    place = decision().train()
    place.collected = True
    counts = []
    for progress in (0.0, 0.5, 1.0):
        place.progress = progress
        counts.append(place(torch.randn(2, 20, 8), Geometry((4, 5))).num_keep)
    assert counts == [[20, 20], [15, 15], [10, 10]]


def test_gumbel_draws_with_the_probability_of_its_score():
    scores = torch.tensor([[-1.5, 0.0, 2.0]]).expand(4000, 3)
    mask = GumbelSelector().train()(scores, Geometry((1, 3)), 0.5, noise=0.0).keep_mask.float().mean(0)
    torch.testing.assert_close(mask, torch.sigmoid(scores[0]), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    "places, error",
    [
        ([(4, 0)], ValueError),
        ([(2, 9)], ValueError),
        ([(2, 2), (2, 1)], ValueError),
        ([(2, 1), (2, 1)], ValueError),
        ([], ValueError),
        ([2], TypeError),
    ],
)
def test_places_are_checked(places, error):
    with pytest.raises(error, match="`places`"):
        BlockRouter((3, 3, 9, 3), (8, 8, 8, 8), [(2, 1)], places=places)


@pytest.mark.parametrize(
    "depths, plain, default, advice",
    [
        ([2, 4, 2], False, [(2, 1), (2, 2), (2, 3)], [(0, 1), (1, 1), (2, 1)]),
        ([2, 1, 2, 2], False, [(2, 1), (2, 2), (2, 3)], [(0, 1), (1, 0), (2, 1), (3, 1)]),
        ([3, 3], False, [(2, 1), (2, 2), (2, 3)], [(0, 1), (1, 1)]),
        ([1], True, [], [0]),
    ],
)
@pytest.mark.parametrize("places", [None, "every_stage"])
def test_a_network_too_shallow_for_the_default_places_is_told_which_fit(depths, plain, default, advice, places):
    with pytest.raises(ValueError, match=r"The default places .*do not fit a network with \[.*\] blocks") as caught:
        BlockRouter(depths, [8] * len(depths), default, places=places, plain=plain)
    assert str(caught.value).endswith(f"Name places, such as places={advice}")
    pairs = [(0, block) for block in advice] if plain else advice
    assert BlockRouter(depths, [8] * len(depths), default, places=pairs, plain=plain).places == tuple(pairs)


KINDS = {
    "scorer": (
        Scorer,
        {"AttentionScorer", "FeatureNormScorer", "KeyNormScorer", "LocalGlobalScorer", "MLPScorer", "RandomScorer"},
    ),
    "selector": (Selector, {"GumbelSelector", "ThresholdSelector", "TopKSelector"}),
    "fast_path": (FastPath, {"IdentityFastPath", "LinearFastPath"}),
}


@pytest.mark.parametrize("argument", KINDS)
@pytest.mark.parametrize("given", ["Nothing", "DynamicSwin", "mmdet.ResNet", None])
def test_a_part_of_another_kind_is_refused_with_those_that_fit(argument, given):
    """Another room's part would be found out in the first forward only."""
    with pytest.raises(ValueError) as caught:
        BlockRouter([4], [16], [(0, 1)], **{argument: dict(type=given)})
    base, kinds = KINDS[argument]
    begin, known, end = re.split(r"(\[.*\])", str(caught.value))
    assert begin == f"Expected argument `{argument}` to be a dict whose 'type' is one of "
    assert end == f" or another registered subclass of {base.__name__}, but got {given!r}"
    names = ast.literal_eval(known)
    assert kinds <= set(names) and names == sorted(names)
    assert all(issubclass(MODELS.get(name), base) for name in names)  # those of projects that are imported, too


@pytest.mark.parametrize("argument, given", zip(KINDS, ["TopKSelector", "MLPScorer", "RandomScorer"], strict=True))
def test_parts_of_the_router_in_each_others_place(argument, given):
    with pytest.raises(ValueError, match=f"`{argument}` .*but got '{given}'"):
        BlockRouter([4], [16], [(0, 1)], **{argument: dict(type=given)})
    with pytest.raises(TypeError, match=f"`{argument}` .*but got {{'kind': 1}}"):
        BlockRouter([4], [16], [(0, 1)], **{argument: dict(kind=1)})


def test_an_unknown_key_of_a_part_is_named_with_those_it_knows():
    known = r"ThresholdSelector knows \['momentum', 'tau'\]"
    with pytest.raises(ValueError, match=f"argument `selector` has the unknown key 'threshold'; {known}"):
        BlockRouter([4], [16], [(0, 1)], selector=dict(type="ThresholdSelector", threshold=0.5))


class Weighted(MLPScorer):
    def __init__(self, channels, weight, *, shift):
        super().__init__(channels)


def test_a_key_that_a_part_lacks_is_named():
    with pytest.raises(ValueError, match="argument `scorer` has no keys 'weight', 'shift', which Weighted needs"):
        BlockRouter([4], [16], [(0, 1)], scorer=dict(type=Weighted))


@pytest.mark.parametrize(
    "part",
    [
        dict(scorer=dict(type="LocalGlobalScorer", hidden="8")),
        dict(scorer=dict(type="MLPScorer", hidden="8")),
        dict(scorer=dict(type="MLPScorer", hidden=8.5)),
        dict(selector=dict(type="TopKSelector", tau="8")),
        dict(selector=dict(type="ThresholdSelector", momentum=None)),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_named(part):
    (cfg,) = part.values()
    ((name, value),) = ((key, value) for key, value in cfg.items() if key != "type")
    with pytest.raises(ValueError, match=f"^{cfg['type']}: expected .*`{name}`.* but got {re.escape(repr(value))}$"):
        BlockRouter([4], [16], [(0, 1)], **part)


class AnyKey(TopKSelector):
    def __init__(self, **kwargs):
        super().__init__(kwargs["temperature"])


def test_a_class_that_takes_any_key_is_given_it():
    router = BlockRouter([4], [16], [(0, 1)], selector=dict(type=AnyKey, temperature=2.0))
    assert router.decisions["0_1"].selector.tau == 2.0


class Brightness(Scorer):
    def forward(self, tokens, context):
        return tokens.mean(-1)


class Halving(FastPath):
    def forward(self, rows):
        return -rows / 2


class FirstOnes(TopKSelector):
    pass


def test_classes_of_ones_own():
    parts = dict(scorer=dict(type=Brightness), selector=dict(type=FirstOnes), fast_path=dict(type=Halving))
    router = BlockRouter([4], [16], [(0, 1)], **parts).eval()
    tokens = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 16)
    assert router.decide(0, 1, tokens, Geometry((2, 2))).keep_mask.tolist() == [[False, True, True, True]]  # 0.7 of 4
    assert router.fast_paths["0_1"](torch.ones(1, 16)).tolist() == [[-0.5] * 16]
    with pytest.raises(ValueError, match="`scorer` .*but got <class '.*Halving'>"):
        BlockRouter([4], [16], [(0, 1)], scorer=dict(type=Halving))


def test_what_was_dropped_takes_nothing_of_the_budget():
    before = Selection(Geometry((2, 3)), torch.tensor([[True, False, True, True, True, False]]), count=4)
    scores = torch.tensor([[0.1, 9.0, 0.4, 0.3, 0.2, 8.0]])
    after = TopKSelector().eval()(scores, Geometry((2, 3)), 0.5, before=before)
    assert after.keep_mask.tolist() == [[False, False, True, True, True, False]] and after.count == 3
    training = TopKSelector().train()(scores.requires_grad_(), Geometry((2, 3)), 0.5, noise=0.0, before=before)
    assert torch.equal(training.keep_mask, after.keep_mask)


def test_a_late_gate_passes_its_gradient_to_the_early_one():
    """Cumulative gates multiply, so that what happens to a dropped location teaches the place that dropped it."""
    first = GumbelSelector().train()(torch.zeros(1, 64, requires_grad=True), Geometry((8, 8)), 0.5, noise=0.0)
    scores = torch.zeros(1, 64, requires_grad=True)
    second = GumbelSelector().train()(scores, Geometry((8, 8)), 0.5, noise=0.0, before=first)
    assert not (second.keep_mask & ~first.keep_mask).any()
    (grad,) = torch.autograd.grad(second.gate.sum(), first.gate)
    assert grad[~first.keep_mask].any()  # where the second would have kept it
    assert set(grad.unique().tolist()) == {0.0, 1.0}


def test_extra_tokens_are_always_slow():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    extended = Selection(Geometry((1, 3)), mask, gate=mask.float()).with_extra(2)
    assert extended.keep_mask.tolist() == [[True, True, True, False, True], [True, True, False, False, True]]
    assert extended.gate.tolist() == extended.keep_mask.float().tolist()
    assert Selection(Geometry((1, 3)), mask).with_extra(0).grid == (1, 3)


def test_a_hierarchy_cannot_be_cumulative():
    with pytest.raises(ValueError, match="cumulative=True drops locations for good, but a hierarchical backbone"):
        BlockRouter([2, 4], [16, 64], [(1, 1)], cumulative=True)


def test_a_plain_backbone_keeps_r_and_its_powers():
    router = BlockRouter([12], [16], [(0, 3), (0, 6), (0, 9)], plain=True, keep_ratio=0.7)
    assert router.keep_ratio == (0.7, 0.49, 0.343)
    assert [decision.name for decision in router.decisions.values()] == ["b3", "b6", "b9"]


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("selector", ["TopKSelector", "GumbelSelector", "ThresholdSelector"])
def test_annealing_keeps_its_promise(selector, cumulative):
    """From all-dense to the budget: what is measured is what the schedule says, whatever the scores are."""
    places, target = [(0, 0), (0, 2)], [0.7, 0.3]
    router = BlockRouter([4], [16], places, plain=True, cumulative=cumulative, keep_ratio=target,
                    selector=dict(type=selector)).train()  # fmt: skip
    tokens = torch.randn(8, 400, 16)
    for progress in (0.0, 0.01, 0.1, 0.3):
        selection = None
        for place, ratio in zip(places, target, strict=True):
            router.decisions[f"0_{place[1]}"].progress = progress
            selection = router.decide(*place, tokens, Geometry((20, 20)), before=selection)
            promised = 1.0 + (ratio - 1.0) * progress
            assert selection.keep_mask.float().mean().item() == pytest.approx(promised, abs=0.03 * progress + 5e-3)
        router.decisions["0_0"].pop_aux(), router.decisions["0_2"].pop_aux()


def test_a_threshold_learns_what_it_sees_in_the_dense_phase():
    selector = ThresholdSelector().train()
    scores = torch.linspace(0, 1, 100).view(1, 100)
    selector(scores, Geometry((10, 10)), 1.0)
    assert selector.eval()(scores, Geometry((10, 10)), 0.25).keep_mask.sum().item() == 25


def test_a_frozen_place_leaves_the_gates_of_later_ones():
    before = Selection(Geometry((1, 4)), torch.tensor([[True, True, False, True]]))
    after = GumbelSelector().train()(torch.zeros(1, 4, requires_grad=True), Geometry((1, 4)), 0.5, before=before)
    assert after.gate.requires_grad and torch.equal(after.gate.detach().bool(), after.keep_mask)


@pytest.mark.parametrize("flag", ["detach", "share_scorer", "cumulative"])
def test_flags_are_true_or_false(flag):
    with pytest.raises(TypeError, match=f"`{flag}` to be True or False, but got 'no'"):
        BlockRouter([4], [16], [(0, 1)], plain=True, **{flag: "no"})


def test_layers_that_do_not_fit_their_paths_are_refused():
    chosen = Selection(Geometry((8, 8), tile=4), torch.tensor([[True, False, False, True]]))
    paths = Paths(chosen, Halving(6))
    with pytest.raises(ValueError, match=r"`rows` .*of the 4 units .*tile=4.* but got 64. Rows of locations are for"):
        paths.take(torch.zeros(64, 6), lambda rows, _: rows)
    with pytest.raises(ValueError, match="`weight` to lead from 6 channels to as many, .* leads from 3 to 6"):
        paths.conv(torch.zeros(1, 3, 8, 8), torch.zeros(6, 3, 3, 3))
    assert paths.conv(torch.ones(1, 6, 8, 8), torch.zeros(6, 6, 3, 3)).sum() == -0.5 * 2 * 16 * 6  # two fast tiles
