"""Parts that share one budget of the whole network."""

import copy

import pytest
from small_networks import DETECTOR, SEGMENTER

from mmsparse.analysis import count_macs
from mmsparse.apis import dense_twin, find_routers, get_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.budgets import open_config, share_budgets
from mmsparse.cli.building import build_model, build_plain, random_pictures

SIZE = (192, 256)


def config(cfg, **ratios):
    cfg = copy.deepcopy(cfg)
    for part, ratio in ratios.items():
        cfg.model[part].sparsity.keep_ratio = ratio
    return cfg


def executed(cfg):
    model = build_model(cfg)
    batch = prepare_batch(model, random_pictures(cfg, 1, SIZE))
    with dense_twin(model):
        dense = count_macs(model, lambda: predict(model, batch)).total
    return count_macs(model, lambda: predict(model, batch)).total / dense


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_the_network_executes_the_share(share):
    whole = dict(network=share, size=SIZE)
    cfg = config(DETECTOR, backbone=whole, neck=whole, bbox_head=whole)
    share_budgets(cfg)
    assert executed(cfg) == pytest.approx(share, abs=0.01)
    ratios = [cfg.model[part].sparsity.keep_ratio for part in ("backbone", "neck", "bbox_head")]
    assert [len(of_part) for of_part in ratios] == [2, 2, 2]
    assert len({ratio for of_part in ratios for ratio in of_part}) == 1  # 0.5 everywhere, scaled by one factor
    before = cfg.pretty_text
    share_budgets(cfg)
    assert cfg.pretty_text == before


def test_ratios_stand_to_each_other_as_is_said_and_numbers_stay():
    cfg = config(DETECTOR, neck=0.3, backbone=dict(network=0.7, size=SIZE, ratio=[0.2, 0.4]),
                 bbox_head=dict(network=0.7, size=SIZE, ratio=0.4))  # fmt: skip
    share_budgets(cfg)
    assert cfg.model.neck.sparsity.keep_ratio == 0.3
    first, second = cfg.model.backbone.sparsity.keep_ratio
    assert second == pytest.approx(2 * first, abs=2e-4)
    assert cfg.model.bbox_head.sparsity.keep_ratio == pytest.approx([second] * 2)
    assert executed(cfg) == pytest.approx(0.7, abs=0.01)


def test_a_config_file_is_read_so(tmp_path):
    path = tmp_path / "shared.py"
    shared = dict(network=0.74, size=SIZE)
    config(SEGMENTER, backbone=shared, decode_head=shared).dump(path)
    cfg = open_config(str(path))
    assert executed(cfg) == pytest.approx(0.74, abs=0.01)
    told = get_keep_ratio(build_plain(cfg))
    assert list(told.values()) == [
        r for part in ("backbone", "decode_head") for r in cfg.model[part].sparsity.keep_ratio
    ]
    again = open_config(str(path), {"model.decode_head.sparsity.keep_ratio": 0.25})
    assert set(find_routers(build_plain(again))["decode_head"].keep_ratio) == {0.25}


@pytest.mark.parametrize(
    "wrong",
    [dict(network=1.5, size=SIZE), dict(network=0.6), dict(network=0.6, size=256), dict(network=0.6, size=SIZE, a=1)],
    ids=["share", "no size", "one side", "another key"],
)
def test_what_is_no_budget(wrong):
    with pytest.raises(
        ValueError, match=r"model.neck: expected argument `keep_ratio` to be a number, .* but got \{'net"
    ):
        share_budgets(config(DETECTOR, neck=wrong))


def test_one_network_has_one_budget():
    one, other = dict(network=0.6, size=SIZE), dict(network=0.7, size=SIZE)
    with pytest.raises(ValueError, match="one `network` and one `size` in all parts, but got .*0.6.*0.7"):
        share_budgets(config(DETECTOR, neck=one, bbox_head=other))


def test_what_cannot_be_reached():
    with pytest.raises(ValueError, match="argument `macs`=0.01 cannot be reached"):
        share_budgets(config(DETECTOR, neck=dict(network=0.01, size=SIZE)))


def test_elsewhere_it_says_where_numbers_are():
    with pytest.raises(TypeError, match="keep_ratio`=.*'network': 0.6.* is a budget of the whole network"):
        build_plain(config(DETECTOR, neck=dict(network=0.6, size=SIZE)))
