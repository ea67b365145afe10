"""LV-ViT: the released networks' formula beside converted weights, the published arithmetic, and what is refused."""

import math
import runpy
import sys

import pytest
import torch
import torch.nn.functional as F
from counting import macs_of
from mmpretrain.structures import DataSample
from official import Weights
from release_formulas import linear, log_probabilities, norm

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.apis import dense_twin, record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.deploy.formats import FORMATS
from mmsparse.engine import SparsityHook, TeacherHook
from mmsparse.models.convert import convert_dynamicvit
from mmsparse.registry import MODELS, build
from projects.lvvit import LVViT, TokenLabelHead
from projects.lvvit.convert import convert_lvvit

DEPTH, DIMS, CLASSES = 8, 64, 5
MICRO = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=144)


def release(depth=DEPTH, dims=DIMS, stem=64, size=64, classes=CLASSES, predictors=3, light=False):
    """The names and shapes of the released files."""
    w = Weights(light)
    w.add("cls_token", 1, 1, dims)
    w.add("pos_embed", 1, (size // 16) ** 2 + 1, dims)
    for number, (before, kernel) in enumerate(((3, 7), (stem, 3), (stem, 3)), start=1):
        w.layer(f"patch_embed.conv{number}", stem, before, kernel, kernel, bias=False)
        w.layer(f"patch_embed.bn{number}", stem)
        w.add(f"patch_embed.bn{number}.running_mean", stem)
        w.state[f"patch_embed.bn{number}.running_var"] = torch.rand(stem) + 0.5
        w.state[f"patch_embed.bn{number}.num_batches_tracked"] = torch.tensor(7)
    w.layer("patch_embed.proj", dims, stem, 8, 8)
    for j in range(depth):
        w.layer(f"blocks.{j}.norm1", dims)
        w.layer(f"blocks.{j}.attn.qkv", 3 * dims, dims, bias=False)
        w.layer(f"blocks.{j}.attn.proj", dims, dims)
        w.layer(f"blocks.{j}.norm2", dims)
        w.layer(f"blocks.{j}.mlp.fc1", 3 * dims, dims)
        w.layer(f"blocks.{j}.mlp.fc2", dims, 3 * dims)
    w.layer("norm", dims)
    w.layer("head", classes, dims)
    w.layer("aux_head", classes, dims)
    for k in range(predictors):
        w.predictor(f"score_predictor.{k}", dims)
    return w.state


def formula(state, depth, heads, counts, x):
    """The released network at inference: logits, normed features of what is left, and which tokens that is."""
    for number in (1, 2, 3):
        name = f"patch_embed.bn{number}"
        weight = state[f"patch_embed.conv{number}.weight"]
        x = F.conv2d(x, weight, stride=2 if number == 1 else 1, padding=weight.shape[-1] // 2)
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        shift = state[f"{name}.bias"] - state[f"{name}.running_mean"] * scale
        x = (x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).clamp_min(0)
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    tokens = x.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(tokens), -1, -1), tokens], dim=1) + state["pos_embed"]
    alive, places = torch.arange(tokens.shape[1]).expand(len(tokens), -1), 0
    for j in range(depth):
        name = f"blocks.{j}"
        if counts and j in (depth // 4, depth // 2, 3 * depth // 4):
            keep = log_probabilities(state, f"score_predictor.{places}", x[:, 1:], 1e-5)[..., 0]
            best = keep.argsort(dim=1, descending=True)[:, : counts[places]]
            places, alive = places + 1, alive.gather(1, best)
            x = torch.cat([x[:, :1], x[:, 1:].gather(1, best[..., None].expand(-1, -1, x.shape[-1]))], dim=1)
        qkv = norm(x, state, f"{name}.norm1", 1e-5) @ state[f"{name}.attn.qkv.weight"].t()
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), state, f"{name}.attn.proj") / 2
        hidden = F.gelu(linear(norm(x, state, f"{name}.norm2", 1e-5), state, f"{name}.mlp.fc1"))
        x = x + linear(hidden, state, f"{name}.mlp.fc2") / 2
    x = norm(x, state, "norm", 1e-5)
    logits = linear(x[:, 0], state, "head") + 0.5 * linear(x[:, 1:], state, "aux_head").max(dim=1).values
    return logits, x, alive


def classifier(converted, **more):
    head = dict(type="mmsparse.TokenLabelHead", num_classes=CLASSES, in_channels=DIMS)
    backbone = {**converted.backbone, **more}
    model = MODELS.build(dict(type="mmpretrain.ImageClassifier", backbone=backbone, head=head))
    result = model.load_state_dict(converted.weights, strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("keep_ratio, counts", [(0.7, (11, 8, 5)), (1.0, ()), (0.5, (8, 4, 2))])
def test_converted_weights_compute_the_released_formula(keep_ratio, counts):
    torch.manual_seed(0)
    state, x = release(), torch.randn(3, 3, 64, 64)
    model = classifier(convert_lvvit(state))
    set_keep_ratio(model, keep_ratio)
    logits, features, alive = formula(state, DEPTH, 1, counts, x)
    with record_selections(model) as decided:
        ours = model.backbone(x)[-1]
        torch.testing.assert_close(model.head((ours,)), logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours[:, 0], features[:, 0], rtol=0, atol=1e-4)
    for i in range(3):
        torch.testing.assert_close(ours[i, 1 + alive[i]], features[i, 1:], rtol=0, atol=1e-4)
        if counts:
            assert decided[-1][1].keep_mask[i].nonzero().squeeze(1).tolist() == sorted(alive[i].tolist())


@torch.no_grad()
def test_a_dense_release_converts_too():
    torch.manual_seed(0)
    state, x = release(predictors=0), torch.randn(2, 3, 64, 64)
    converted = convert_lvvit(state)
    assert converted.layout == "LV-ViT" and "sparsity" not in converted.backbone
    model = classifier(converted)
    torch.testing.assert_close(model.head(model.backbone(x)), formula(state, DEPTH, 1, (), x)[0], rtol=0, atol=1e-4)


@torch.no_grad()
def test_what_was_dropped_says_nothing():
    """Tokens that would be the largest of all, had they not been dropped."""
    torch.manual_seed(0)
    model = classifier(convert_lvvit(release()))
    x = torch.randn(2, 3, 64, 64)
    with record_selections(model) as decided:
        tokens = model.backbone(x)[-1]
    kept = decided[-1][1].keep_mask
    maps = build({**convert_lvvit(release()).backbone, "out_type": "featmap"}).eval()
    maps.load_state_dict(model.backbone.state_dict())
    whole = maps(x)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens[:, 1:][kept], whole[kept])
    assert not torch.isclose(tokens[:, 1:][~kept], whole[~kept]).all(dim=-1).any()
    for i in range(2):
        most = model.head.aux_head(whole[i, kept[i]]).amax(dim=0)
        torch.testing.assert_close(model.head.aux_head(tokens[i, 1:]).amax(dim=0), most)


@pytest.mark.parametrize("arch, dims, depth", [("tiny", 240, 12), ("small", 384, 16), ("medium", 512, 20)])
def test_sizes_are_read_from_released_shapes(arch, dims, depth):
    converted = convert_lvvit(release(depth, dims, size=224, classes=1000, light=True))
    expected = dict(type="mmsparse.LVViT", arch=arch, img_size=224, patch_size=16, stem_channels=64, out_type="raw")
    assert converted.backbone.items() >= expected.items()
    sparsity = converted.backbone["sparsity"]
    assert sparsity["places"] == [(0, depth * k // 4) for k in (1, 2, 3)] and sparsity["cumulative"]
    model = build(converted.backbone)
    assert model.layers[0].attn.gamma1.by == model.layers[-1].ffn.gamma2.by == (1.0 if arch == "tiny" else 2.0)


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize(
    "arch, keep_ratio, published",
    [("small", 1.0, 6.5), ("small", 0.7, 4.6), ("small", 0.5, 3.7), ("medium", 1.0, 12.6), ("medium", 0.7, 8.5)],
)
def test_published_arithmetic(arch, keep_ratio, published):
    """The routed ones of DynamicViT's model zoo at 224x224, GFLOPs; of the dense ones the paper has 6.6 and 12.7."""
    model = LVViT(arch, sparsity=dict(keep_ratio=keep_ratio, cumulative=True))
    assert abs(macs_of(model, 224, 224) / 1e9 - published) <= 0.1


@torch.no_grad()
def test_any_size_of_picture():
    """Filled up at the right and bottom to whole patches."""
    model = LVViT(MICRO, img_size=64, out_type="featmap", sparsity=dict(keep_ratio=0.6)).eval()
    x = torch.randn(1, 3, 50, 90)
    padded = F.pad(x, (0, 6, 0, 14))
    assert model(x)[0].shape == (1, 48, 4, 6)
    torch.testing.assert_close(model(x), model(padded))


def test_training_reaches_every_parameter():
    torch.manual_seed(0)
    converted = convert_lvvit(release())
    sparsity = {**converted.backbone["sparsity"], "detach": False, "keep_ratio": 0.7}
    model = classifier(converted, sparsity=sparsity).train()
    samples = [DataSample().set_gt_label(label) for label in (0, 3)]
    model(torch.randn(2, 3, 64, 64), samples, mode="loss")["loss"].backward()
    pop_aux(model)
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert [name for name in without if ".decisions." not in name] == []
    assert model.head.aux_head.weight.grad.any() and model.backbone.patch_embed.conv1.weight.grad.any()


def test_the_teacher_is_asked_about_the_tokens_that_survive():
    """The hooks of the config, and the features' loss by hand."""
    torch.manual_seed(0)
    model, x = classifier(convert_lvvit(release())), torch.randn(2, 3, 64, 64)
    set_keep_ratio(model, 0.7)
    SparsityHook(loss_weight=2.0, anneal=None).attach(model)
    TeacherHook().attach(model)
    with torch.no_grad(), dense_twin(model):
        theirs = model.backbone(x)[-1][:, 1:]
    model.train()
    model.backbone.patch_embed.eval()  # the teacher's norms are evaluated
    outputs = []
    model.backbone.register_forward_hook(lambda module, args, maps: outputs.append(maps[-1][:, 1:]))
    with record_selections(model) as decided:
        losses = model(x, [DataSample().set_gt_label(label) for label in (0, 3)], mode="loss")
    kept = decided[-1][1].keep_mask
    error = (outputs[0] - theirs)[kept].square().mean()
    assert kept.sum() < kept.numel() and error > 1e-5
    torch.testing.assert_close(losses["loss_distill_feat"], 0.5 * error)
    assert losses["loss_distill_cls"] > 0 and losses["keep_ratio/b6"] == kept.float().mean()


def test_a_training_forward_is_the_evaluation():
    """Batch norms evaluated, the same tokens: what the routed network computes does not change."""
    torch.manual_seed(0)
    sparsity = dict(keep_ratio=0.6, cumulative=True)
    model = LVViT(MICRO, img_size=64, out_type="raw", sparsity=sparsity).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(x)[0]
        model.train()
        model.patch_embed.eval()
        torch.testing.assert_close(model(x)[0], wanted, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_export_gives_the_same_logits(runtime, tmp_path):
    """What stands in place of dropped tokens is found without shapes that depend on data."""
    torch.manual_seed(0)
    model, x = classifier(convert_lvvit(release())), torch.randn(1, 3, 64, 64)
    set_keep_ratio(model, 0.7)
    network = torch.nn.Sequential(model.backbone, model.head)
    check_exportable(network)
    program = torch.export.export(network, (torch.randn(1, 3, 64, 64),), strict=False)
    path = tmp_path / f"program{FORMATS[runtime].suffix}"
    FORMATS[runtime].write(program, path, ["x"], ["logits"])
    torch.testing.assert_close(FORMATS[runtime].load(path, "f32", 1)([x])[0], network(x), rtol=1e-4, atol=1e-4)


def test_the_converter_runs(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    torch.save(dict(model=release()), tmp_path / "release.pth")
    monkeypatch.setattr(sys, "argv", ["convert", str(tmp_path / "release.pth"), str(tmp_path / "ours.pth")])
    monkeypatch.delitem(sys.modules, "projects.lvvit.convert")
    runpy.run_module("projects.lvvit.convert", run_name="__main__")
    told = capsys.readouterr().out
    assert "DynamicViT release, LV-ViT" in told and "'out_type': 'raw'" in told
    saved = torch.load(tmp_path / "ours.pth")["state_dict"]
    expected = convert_lvvit(release()).weights
    assert saved.keys() == expected.keys() and "head.aux_head.weight" in saved


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="python -m projects.lvvit.convert"):
        convert_dynamicvit(release())
    with pytest.raises(ValueError, match="no patch_embed.conv1, so they are of no LV-ViT"):
        convert_lvvit({"conv1.weight": torch.ones(1)})
    state = release()
    state["blocks.1.mlp.fc1.weight"] = torch.ones(7, DIMS)
    with pytest.raises(ValueError, match=r"1 of them do not fit, such as \['layers.1.ffn.layers.0.0.weight'\]"):
        convert_lvvit(state)
    with pytest.raises(
        ValueError, match=r"`arch` to be one of \['tiny', 'small', 'medium'\] or a dict, but got 'base'"
    ):
        LVViT("base")
    with pytest.raises(ValueError, match="`skip` to be positive, but got 0"):
        LVViT(MICRO, skip=0)
    with pytest.raises(ValueError, match="`patch_size` to be an even number, but got 15"):
        LVViT(MICRO, patch_size=15)
    with pytest.raises(ValueError, match="Remove `layer_scale_init_value`"):
        LVViT(MICRO, layer_scale_init_value=0.1)
    with pytest.raises(ValueError, match="Set out_type='raw' in the backbone"):
        TokenLabelHead(num_classes=3, in_channels=4)((torch.zeros(1, 4),))
