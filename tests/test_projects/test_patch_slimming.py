"""Patch slimming: scores by enumeration, rows of the stock block, arithmetic by the formula, files, the search."""

import itertools
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from commands import tool
from mmengine.config import Config
from mmpretrain.models import VisionTransformer
from PIL import Image
from scenes import ROOT, at, options

from mmsparse import set_keep_ratio
from mmsparse.analysis import count_macs
from mmsparse.apis import ignore_padding, pop_aux, record_selections
from mmsparse.models import DynamicViT
from mmsparse.registry import MODELS
from projects.patch_slimming import SignificanceHook, SlimMasks, SlimViT, search
from projects.patch_slimming.blocks import record, slim_block
from projects.patch_slimming.significance import significance
from projects.patch_slimming.significance_hook import regression_targets
from projects.patch_slimming.top_down import Settings, TopDown

CONFIGS = ROOT / "projects/patch_slimming/configs"
MICRO = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)


def micro(kind=DynamicViT, **more):
    return kind(**{**dict(arch=MICRO, img_size=96, out_type="featmap", final_norm=False), **more})


def lively(model):
    """Attention that is not flat."""
    for block in model.layers:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.2)
    model.eval()
    return model


def pyramid(counts, grid=(6, 6), patch_size=16, last=None):
    """Nested masks of random tokens."""
    order = torch.stack([torch.randperm(grid[0] * grid[1])] * len(counts))
    kept = torch.stack([ranks >= len(ranks) - count for ranks, count in zip(order, counts, strict=True)])
    return SlimMasks(grid, patch_size, kept, order)


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
    assert model.macs(224, 224) == round(expected)
    x = torch.randn(1, 3, 224, 224)
    assert count_macs(model, lambda: model(x)).total == model.macs(224, 224)
    shown = f"takes {model.macs(224, 224) / 1e9:.3f} of {DynamicViT(arch='deit-small').macs(224, 224) / 1e9:.3f} GMACs"
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


def found_by(model, eps, step=4, epochs=0, lr=1e-5, whole=True, control=False):
    x = torch.randn(4, 3, 96, 96)
    deciding = TopDown(model, Settings(eps, step, epochs, lr, control), whole)
    progress = deciding.start(37)
    while progress.next >= 0:
        deciding.block(progress, lambda block: [x])
    return progress, x


@pytest.mark.parametrize("whole", [True, False])
def test_the_search_keeps_what_the_error_asks_for(whole):
    torch.manual_seed(0)
    state = lively(micro(out_type="featmap" if whole else "cls_token")).state_dict()
    kept = []
    for eps in (0.0, 0.05, 0.3, 1e9):
        model = micro(out_type="featmap" if whole else "cls_token").eval()
        model.load_state_dict(state)
        progress, _ = found_by(model, eps, whole=whole)
        masks = progress.kept
        assert not (masks[1:] & ~masks[:-1]).any() and masks[:, 0].all()  # nested; the class token is everywhere
        assert all(error[1] <= eps for error in progress.errors if error and error[1] > 1e-9)
        kept.append(masks[:, 1:].sum().item())
        if not whole:
            assert not masks[-1, 1:].any()
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == (4 if whole else 3) * 36 and kept[-1] == 0
    assert kept[0] > kept[1] > kept[2] > 0


def test_the_scores_are_worth_more_than_a_random_order():
    """Where positions differ, a classifier reaches the same error with fewer tokens."""
    kept = {False: 0, True: 0}
    for seed, control in itertools.product(range(3), kept):
        torch.manual_seed(seed)
        model = lively(micro(out_type="cls_token"))
        torch.nn.init.normal_(model.pos_embed)
        kept[control] += found_by(model, 0.02, step=1, whole=False, control=control)[0].kept[:, 1:].sum().item()
    assert 0 < kept[False] < 0.85 * kept[True]


def test_the_search_keeps_the_tokens_that_are_looked_at():
    """The last block's class token sees nothing but the tokens whose key it likes: those are kept, first of all."""
    model = lively(micro(out_type="cls_token"))
    liked = torch.zeros(36, dtype=torch.bool)
    liked[[3, 17, 30]] = True
    progress = TopDown(model, Settings(), whole=False).start(37)
    x = torch.randn(1, 37, 48)
    _, maps = record(model.layers, x, progress.kept)
    maps[-1] = torch.zeros_like(maps[-1])
    maps[-1][:, :, 0, 1:] = liked.float() / 3
    scores = significance(maps, [torch.ones_like(x)] * 4, whole=False)[2][0, 1:]
    assert set(scores.topk(3).indices.tolist()) == {3, 17, 30}
    assert not scores[~liked].any()


def test_rebuilding_a_block_lowers_the_error():
    torch.manual_seed(0)
    model = lively(micro())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    progress, _ = found_by(model, 0.1, step=36, epochs=5, lr=1e-3)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("layers.") for name in moved)
    found = [error for error in progress.errors if error[0] > 0.1]
    assert found == [] or all(after < first for first, after in found)
    deciding = TopDown(lively(micro()), Settings(0.0, 1, 30, 1e-3), whole=True)
    states = deciding._states(torch.randn(2, 37, 48), 2)
    kept = torch.ones(4, 37, dtype=torch.bool)
    mine = torch.arange(37) < 20
    wrong = deciding._error([states], kept, mine, 2)
    deciding._rebuild([states], kept, mine, 2)
    assert deciding._error([states], kept, mine, 2) < 0.9 * wrong


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
        torch.testing.assert_close(target.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-5)


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


embed = TopDown._embed


def run_search(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["search", *map(str, args)])
    search.main()


def test_search_of_a_classifier(tmp_path, monkeypatch):
    """The last block computes the class token alone; pictures are those of training, normalised."""
    for number in range(8):
        folder = tmp_path / "pictures" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(256, (80, 96, 3), dtype=torch.uint8).numpy()).save(folder / f"{number}.png")
    cfg = Config.fromfile(ROOT / "configs/imagenet/deit-s_8xb128-30e_in1k.py")
    cfg.model.backbone.update(arch=MICRO, img_size=96)
    cfg.model.head.in_channels = 48
    cfg.train_dataloader.dataset = dict(
        type="CustomDataset", data_prefix=str(tmp_path / "pictures"), pipeline=cfg.train_pipeline
    )
    cfg.train_dataloader.dataset.pipeline[1].scale = 96
    cfg.dump(tmp_path / "dense.py")
    torch.save(dict(state_dict=search.build_model(cfg).state_dict()), tmp_path / "dense.pth")
    seen = []
    monkeypatch.setattr(search.TopDown, "_embed", lambda self, pictures: seen.append(pictures) or embed(self, pictures))
    asked = ("--pictures", 6, "--batch-size", 3, "--eps", 0.001, "--epochs", 0)
    run_search(monkeypatch, tmp_path / "dense.py", tmp_path / "dense.pth", "--out", tmp_path / "out", *asked)
    assert len(seen) == 3 * 2 and all(abs(batch.mean()) < 1.0 and batch.std() < 3.0 for batch in seen)
    masks = SlimMasks.read(tmp_path / "out/masks.json")
    assert masks.counts[-1] == 0 and masks.grid == (6, 6)
    slim = Config.fromfile(tmp_path / "out/slim_config.py")
    assert [hook["type"] for hook in slim.custom_hooks] == ["EMAHook", "mmsparse.SparsityHook"]
    model = search.build_model(slim, str(tmp_path / "out/slim.pth"))
    with torch.no_grad(), record_selections(model) as taken:
        model(torch.randn(2, 3, 96, 96))
    assert [s.num_keep[0] for _, s in taken] == [masks.counts[place] for place in masks.places]


def test_search_train_evaluate(scenes, tmp_path, monkeypatch, capsys):
    """The tool, interrupted and continued; then its config through the tools."""
    config, out = CONFIGS / "dense/vit-mini_fcn_scenes.py", tmp_path / "found"
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(at(scenes))
    cfg.model.data_preprocessor.size = None
    cfg.model.data_preprocessor.size_divisor = 32
    cfg.model.backbone.img_size = 96
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline):
        next(step for step in pipeline if step["type"] == "Resize")["scale"] = (96, 96)
    cfg.dump(tmp_path / "dense.py")
    model = search.build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "dense.pth")
    asked = (tmp_path / "dense.py", tmp_path / "dense.pth", "--pictures", 4, "--batch-size", 2, "--step", 9)
    asked = (*asked, "--epochs", 1, "--eps", 0.1)
    run_search(monkeypatch, *asked, "--out", out)
    whole = SlimMasks.read(out / "masks.json")
    text = capsys.readouterr().out
    assert float(re.search(r"slimmed, ([\d.]+) % less", text)[1]) > 0
    for block, count in enumerate(whole.counts):
        assert f"| {block} | {count} | {count / 36:.2f} | " in (out / "table.md").read_text()
    for name in ("masks.png", "slim.pth", "slim_config.py", "search.pth"):
        assert (out / name).stat().st_size > 0

    class Stopped(Exception):
        pass

    draw = search.Pictures.draw

    def stop_at_three(pictures, block):
        if block == 3:
            raise Stopped
        return draw(pictures, block)

    with monkeypatch.context() as patch:
        patch.setattr(search.Pictures, "draw", stop_at_three)
        with pytest.raises(Stopped):
            run_search(patch, *asked, "--out", tmp_path / "again")
    drawn = []
    with monkeypatch.context() as patch:
        patch.setattr(search.Pictures, "draw", lambda self, block: drawn.append(block) or draw(self, block))
        run_search(patch, *asked, "--out", tmp_path / "again")
    assert drawn == [3, 2, 1, 0]
    again = SlimMasks.read(tmp_path / "again/masks.json")
    assert torch.equal(again.kept, whole.kept) and torch.equal(again.order, whole.order)
    with pytest.raises(ValueError, match="holds a search that was asked for other eps. Choose another folder"):
        run_search(monkeypatch, *asked[:-1], 0.5, "--out", out)
    with pytest.raises(ValueError, match=r"`eps`=0.0: no token of any block can be left out .* Choose a larger one"):
        run_search(monkeypatch, *asked[:-1], 0.0, "--out", tmp_path / "none")
    with pytest.raises(ValueError, match="is no plain ViT, but a mmsparse.DynamicConvNeXt"):
        run_search(monkeypatch, ROOT / "configs/demo/convnext-atto_fpn_scenes.py", *asked[1:], "--out", out)
    for option, sentence in (
        ("train_dataloader=None", "The config has no `train_dataloader`, whose pictures"),
        (
            "train_dataloader.dataset.indices=0",
            "The calibration set is empty: the config's training set has no pictures",
        ),
        (
            "train_dataloader.dataset.pipeline.2.scale=(64,64)",
            "make 4x4 patches, but the network is for 6x6. Set img_si",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            run_search(monkeypatch, *asked, "--out", tmp_path / "none", "--cfg-options", option)
    with pytest.raises(ValueError, match="`pictures` to be at least 1, because an empty calibration set says nothing"):
        run_search(monkeypatch, *asked, "--pictures", 0, "--out", out)

    args = ["--work-dir", str(tmp_path), *options(scenes, iters=2)]
    tool("train", str(out / "slim_config.py"), *args)
    text = tool("test", str(out / "slim_config.py"), str(tmp_path / "iter_2.pth"), "--macs-pictures", "1", *args)
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < dense
