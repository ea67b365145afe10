import pytest

from mmsparse.models.backbones.places import expand_keep_ratio
from mmsparse.sparsity import num_keep
from mmsparse.sparsity.budget import anneal

PAPER = [(2, 1), (2, 2), (2, 3)]


def test_one_number_follows_the_paper_within_a_stage():
    assert expand_keep_ratio(0.7, PAPER) == (0.7, 0.5, 0.3)
    assert expand_keep_ratio(0.9, [(1, 0), *PAPER, (3, 0)]) == (0.9, 0.9, 0.7, 0.5, 0.9)
    assert expand_keep_ratio(1.0, PAPER) == (1.0, 1.0, 1.0)
    assert expand_keep_ratio([0.2, 0.4, 1], PAPER) == (0.2, 0.4, 1.0)


@pytest.mark.parametrize("ratio", [0.0, 1.5, -0.2, float("nan"), [0.5, 0.0, 0.5]])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match=r"`keep_ratio` to be in \(0, 1\], but got"):
        expand_keep_ratio(ratio, PAPER)


@pytest.mark.parametrize("ratio", ["0.5", True, None])
def test_ratio_of_wrong_kind(ratio):
    with pytest.raises(TypeError, match="keep_ratio"):
        expand_keep_ratio(ratio, PAPER)


def test_wrong_number_of_ratios_and_a_rule_that_runs_out():
    with pytest.raises(ValueError, match=r"one for each of the 3 places.*but got 2 numbers"):
        expand_keep_ratio([0.5, 0.5], PAPER)
    with pytest.raises(ValueError, match=r"`keep_ratio`=0.4 leaves 0.0 for the place \(stage 2, block 3\)"):
        expand_keep_ratio(0.4, PAPER)


@pytest.mark.parametrize(
    "ratio, locations, expected",
    [
        *((0.7, 196, 137), (0.7 - 0.2, 196, 98), (0.7 - 0.4, 196, 59), (0.5, 1, 1), (0.49, 1, 0), (1.0, 7, 7)),
        *((0.3, 5, 2), (0.7 - 0.2, 197, 99)),  # the last is a little less than a half
    ],
)
def test_counts_round_half_up(ratio, locations, expected):
    assert num_keep(ratio, locations) == expected


def test_anneal_is_linear_and_bounded():
    assert [anneal(0.4, p) for p in (-1, 0, 0.5, 1, 2)] == pytest.approx([1.0, 1.0, 0.7, 0.4, 0.4])
