"""The top-down search of patch slimming: what it keeps, that it continues, what it refuses."""

import itertools
import re
import sys

import pytest
import torch
from commands import tool
from mmengine.config import Config
from PIL import Image
from scenes import ROOT, at, options
from slim import MICRO, lively, micro

from mmsparse.apis import record_selections
from projects.patch_slimming import SlimMasks, search
from projects.patch_slimming.blocks import record
from projects.patch_slimming.significance import significance
from projects.patch_slimming.top_down import Settings, TopDown

CONFIGS = ROOT / "projects/patch_slimming/configs"


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
