"""Patch slimming: scores by enumeration, rows of the stock block, arithmetic by the formula, files."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from counting import macs_of
from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from scenes import ROOT
from slim import MICRO, lively, micro, pyramid

from mmsparse import set_keep_ratio
from mmsparse.apis import pop_aux, record_selections
from mmsparse.calls import ignore_padding
from mmsparse.models import DynamicViT
from mmsparse.registry import MODELS
from projects.patch_slimming import SignificanceHook, SlimMasks, SlimViT
from projects.patch_slimming.blocks import record, slim_block
from projects.patch_slimming.significance import significance
from projects.patch_slimming.significance_hook import regression_targets

CONFIGS = ROOT / "projects/patch_slimming/configs"


@pytest.fixture
def masks(tmp_path):
    path = tmp_path / "masks.json"
    pyramid([36, 20, 20, 9]).write(path)
    return str(path)


def softmaxes(layers, heads=2, tokens=4):
    maps = [torch.randn(1, heads, tokens, tokens, dtype=torch.float64).softmax(-1) for _ in range(layers)]
    return maps, [torch.randn(1, tokens, 5, dtype=torch.float64) for _ in range(layers)]


def by_enumeration(maps, inputs, masks, block, read):
    """The paper's score of a block's tokens: every path of heads from it to the block that is ``read``."""
    scores = torch.zeros(4, dtype=torch.float64)
    for path in itertools.product(range(2), repeat=read - block):
        product = torch.eye(4, dtype=torch.float64)
        for number, head in zip(range(block + 1, read + 1), path, strict=True):
            product = torch.diag(masks[number]) @ maps[number][0, head] @ product
        for head in range(2):
            update = maps[block][0, head] @ inputs[block][0].abs()
            for token in range(4):
                scores[token] += torch.outer(product[:, token], update[token]).square().sum()
    return scores / 2 ** (read - block + 1)


@pytest.mark.parametrize("whole", [False, True])
def test_scores_are_those_of_all_paths(whole):
    """N=4, H=2, two layers behind the first, one of them pruned."""
    maps, inputs = softmaxes(3)
    masks = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0]], dtype=torch.float64)
    pruned = [attention * mask.unsqueeze(-1) for attention, mask in zip(maps, masks, strict=True)]
    pruned[0] = maps[0]
    for block, scores in list(enumerate(significance(pruned, inputs, whole)))[:2]:
        reads = range(block, 3) if whole else [2]  # the shortcuts lead from behind each block to the map
        plain = [pruned[block] if number == block else attention for number, attention in enumerate(maps)]
        expected = sum(by_enumeration(plain, inputs, masks, block, read) for read in reads)
        torch.testing.assert_close(scores[0], expected, rtol=1e-6, atol=1e-9)


@pytest.fixture
def layer():
    return lively(micro(VisionTransformer)).layers[1]


def test_rows_of_a_slim_block_are_the_stock_blocks(layer):
    x = torch.randn(2, 37, 48)
    kept, entering = torch.rand(37) < 0.5, torch.rand(37) < 0.7
    everything = torch.ones_like(kept)
    with torch.no_grad():
        made, stock = slim_block(layer, x, kept, everything), layer(x)
        torch.testing.assert_close(made[:, kept], stock[:, kept], rtol=0, atol=1e-5)
        assert torch.equal(made[:, ~kept], x[:, ~kept])  # bit for bit
        kept &= entering
        narrow = slim_block(layer, x, kept, entering)
        alone = layer(x[:, entering])
    torch.testing.assert_close(narrow[:, kept], alone[:, kept[entering]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_its_blocks(masks, training):
    model = lively(micro(SlimViT, masks=masks)).train(training)
    stock = micro(VisionTransformer)
    stock.load_state_dict(model.state_dict())  # strict: a slimmed network has the dense network's keys
    file = SlimMasks.read(masks)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        (actual,) = model(x)
        tokens = model._embed(x)[0]
        entering = torch.ones(37, dtype=torch.bool)
        stock.eval()
        for layer, mask in zip(stock.layers, file.kept, strict=True):
            kept = torch.cat([torch.tensor([True]), mask])
            tokens[:, kept] = layer(tokens[:, entering])[:, kept[entering]]
            entering = kept
        set_keep_ratio(model.eval(), 1.0)
        torch.testing.assert_close(model(x)[0], stock(x)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(actual.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=0, atol=1e-5)


def test_gradual_training_ends_at_the_masks(masks):
    """No noise and no gradient into scores; budgets that are still annealed are nested, too."""
    model = micro(SlimViT, masks=masks).train()
    for progress, counts in ((0.0, [36, 36]), (0.5, [28, 23]), (1.0, [20, 9])):
        for decision in model.router.decisions.values():
            decision.progress = progress
        with record_selections(model) as taken:
            (y,) = model(torch.randn(2, 3, 96, 96))
        assert [s.keep_mask[0].sum().item() for _, s in taken] == counts
        assert not taken[-1][1].gate.requires_grad
        pop_aux(model)
    y.square().mean().backward()
    for place, (_, selection) in zip((1, 3), taken, strict=True):
        assert torch.equal(selection.keep_mask[1], SlimMasks.read(masks).kept[place])


def test_arithmetic_of_deit_s_is_the_papers_formula():
    """With N tokens entering of which a share eta is pruned, eta (2 N^2 d + 2 N d^2) and eta 2 N d d' are saved."""
    path = CONFIGS / "deit-s_by-hand_masks.json"
    counts = SlimMasks.read(path).counts
    model = SlimViT(arch="deit-small", img_size=224, patch_size=16, out_type="cls_token", masks=str(path)).eval()
    d, ffn, expected = 384, 1536, 196 * 3 * 16 * 16 * 384
    for before, now in itertools.pairwise([196, *counts]):
        entering, eta = before + 1, 1 - (now + 1) / (before + 1)  # and the class token
        attention, mlp = 2 * entering**2 * d + 4 * entering * d**2, 2 * entering * d * ffn
        expected += attention - eta * (2 * entering**2 * d + 2 * entering * d**2) + (1 - eta) * mlp
    counted, dense = macs_of(model, 224, 224), macs_of(DynamicViT(arch="deit-small"), 224, 224)
    assert counted == round(expected)
    shown = f"takes {counted / 1e9:.3f} of {dense / 1e9:.3f} GMACs"
    assert shown in (CONFIGS.parent / "README.md").read_text()


def test_a_file_holds_what_was_written(tmp_path):
    masks = pyramid([30, 20, 5], (5, 7), patch_size=8)
    masks.write(tmp_path / "masks.json")
    again = SlimMasks.read(tmp_path / "masks.json")
    assert torch.equal(again.kept, masks.kept) and torch.equal(again.order, masks.order)
    assert (again.grid, again.patch_size, again.counts, again.places) == ((5, 7), 8, [30, 20, 5], [0, 1, 2])


@pytest.mark.parametrize("grid", [(12, 12), (3, 3), (7, 9)])
def test_resized_masks_keep_their_share_and_stay_nested(grid):
    small = pyramid([36, 30, 18, 9, 0]).resized(grid)
    total = grid[0] * grid[1]
    assert small.counts == [int(share * total + 0.5) for share in (1, 30 / 36, 0.5, 0.25, 0)]
    assert not (small.kept[1:] & ~small.kept[:-1]).any()  # the constructor refuses others, too


def test_resized_masks_look_the_same():
    kept = torch.zeros(1, 6, 6, dtype=torch.bool)
    kept[:, :3] = True
    masks = SlimMasks((6, 6), 16, kept.flatten(1), torch.zeros(1, 36))
    for grid in ((12, 12), (4, 9)):
        assert masks.resized(grid).kept.view(grid)[: grid[0] // 2].all()
    assert torch.equal(masks.resized((12, 12)).resized((6, 6)).kept, masks.kept)


def test_each_picture_of_a_padded_batch_has_its_own(masks):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = micro(SlimViT, masks=masks, with_cls_token=False).eval()
            ignore_padding(self)

        def forward(self, inputs, data_samples=None, mode="tensor"):
            return self.backbone(inputs)

    def of(size):
        return SimpleNamespace(metainfo=dict(img_shape=size, pad_shape=(128, 160)))

    file, sizes = SlimMasks.read(masks), [(96, 96), (128, 160), (64, 112)]
    with torch.no_grad(), record_selections(model := Model()) as taken:
        model(torch.randn(3, 3, 128, 160), [of(size) for size in sizes])
    for place, (_, selection) in zip((1, 3), taken, strict=True):
        for mask, size in zip(selection.keep_mask.view(3, 8, 10), sizes, strict=True):
            high, wide = size[0] // 16, size[1] // 16
            assert torch.equal(mask[:high, :wide].flatten(), file.resized((high, wide)).kept[place])
            assert mask.sum() == mask[:high, :wide].sum()


def test_mask_files_of_others_are_refused(masks, tmp_path):
    def refuses(error, sentence, **more):
        with pytest.raises(error, match=sentence):
            micro(SlimViT, **{"masks": masks, **more})

    deeper = dict(MICRO, num_layers=6)
    refuses(ValueError, "is for a network of 4 blocks, but this one has 6. Use the mask file", arch=deeper)
    refuses(ValueError, "has 12. Use the mask file", arch="deit-tiny")
    refuses(ValueError, "a grid of 6x6 patches of 16 pixels, but this network has 8x8 of 16. Search", img_size=128)
    refuses(ValueError, "but this network has 12x12 of 8", patch_size=8)
    refuses(ValueError, "`sparsity` has 'places', which the mask file decides. Remove it", sparsity=dict(places=[1]))
    refuses(FileNotFoundError, "'nowhere.json' does not exist. Write it with python -m projects", masks="nowhere.json")
    for text in ("[]", "masks", '{"format": "other"}', '{"format": "mmsparse slim masks 1"}'):
        (tmp_path / "bad.json").write_text(text)
        refuses(
            ValueError, "is no mask file that projects.patch_slimming.search wrote", masks=str(tmp_path / "bad.json")
        )
    pyramid([36] * 4).write(tmp_path / "all.json")
    refuses(ValueError, "keeps every token in every block. Use the dense network", masks=str(tmp_path / "all.json"))
    with pytest.raises(ValueError, match="to be nested, but block 1 keeps what block 0 dropped"):
        pyramid([9, 20])


def test_dynamic_scorers_learn_the_significance_of_pictures(masks):
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = lively(micro(SlimViT, masks=masks, sparsity=dict(scorer=dict(type="MLPScorer"))))

        def forward(self, inputs, data_samples=None, mode="tensor"):
            return dict(loss=self.backbone(inputs)[0].square().mean())

    model = Model().train()
    hook = SignificanceHook()
    hook.attach(model)
    scorers = [p for name, p in model.named_parameters() if ".router." in name]
    optimizer = torch.optim.Adam(scorers, lr=3e-3)
    x = 3 * torch.rand(4, 3, 1, 1) * torch.randn(4, 3, 96, 96)
    losses = []
    for _ in range(40):
        output = model(x, mode="loss")
        optimizer.zero_grad()
        output["loss"].backward(retain_graph=True)
        assert all(p.grad is None or not p.grad.any() for p in scorers)  # the task does not teach them
        output["loss_sparsity"].backward()
        optimizer.step()
        losses.append(output["loss_sparsity"].item())
    assert losses[-1] < 0.6 * losses[0]
    model.eval()
    with torch.no_grad(), record_selections(model) as taken:
        model(x)
    assert [s.num_keep[0] for _, s in taken] == [20, 9]
    assert (taken[0][1].keep_mask[0] != taken[0][1].keep_mask[1]).any()  # picture by picture


def test_targets_are_the_scores_of_the_dense_network(masks):
    model = lively(micro(SlimViT, masks=masks))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        inputs, maps = record(model.layers, model._embed(x)[0], torch.ones(4, 37, dtype=torch.bool))
        scores = significance(maps, inputs[:-1], whole=True)
    for target, score in zip(regression_targets(model, x), scores, strict=True):
        assert torch.equal(target.argsort(), score[:, 1:].argsort())
        torch.testing.assert_close(target.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["slim-deit-s_8xb128-30e_in1k", "slim-vit-s_upernet_8xb2-160k_ade20k-512x512"])
def test_a_slim_config_is_its_dense_one_with_masks(name):
    """From wherever it is read, a config finds its masks; those by hand are a pyramid that keeps the centre."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    masks = SlimMasks.read(cfg.model.backbone.masks)
    model = MODELS.build({**cfg.model.backbone, "init_cfg": None})
    assert len(model.layers) == len(masks.counts) == 12 and tuple(model.patch_resolution) == masks.grid
    assert masks.counts == sorted(masks.counts, reverse=True) and masks.counts[-1] == (0 if "deit" in name else 320)
    centre = masks.kept.view(12, *masks.grid)[:, masks.grid[0] // 2, masks.grid[1] // 2]
    assert centre[:-1].all()
    assert cfg.custom_hooks[-1] == dict(type="mmsparse.SparsityHook", anneal=None)
    assert cfg.optim_wrapper.optimizer.lr == (2e-5 if "deit" in name else 6e-5)
