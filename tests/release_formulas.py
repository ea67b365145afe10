"""What the released networks compute at inference, written down from their formulas."""

import math

import torch
import torch.nn.functional as F


def norm(rows, state, name, eps):
    return F.layer_norm(rows, rows.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(rows, state, name):
    return F.linear(rows, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])


def log_probabilities(state, name, tokens, eps):
    """The predictor of the release: (B, N, C) -> (B, N, 2), keep first."""
    u = F.gelu(linear(norm(tokens, state, f"{name}.in_conv.0", eps), state, f"{name}.in_conv.1"))
    local, context = u.chunk(2, dim=-1)
    z = torch.cat([local, context.mean(1, keepdim=True).expand_as(local)], dim=-1)
    z = F.gelu(linear(z, state, f"{name}.out_conv.0"))
    z = F.gelu(linear(z, state, f"{name}.out_conv.2"))
    return linear(z, state, f"{name}.out_conv.4").log_softmax(dim=-1)


def official_mask(scores, count):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(1, scores.argsort(dim=1, descending=True)[:, :count], True)


def convnext_formula(state, depths, first, counts, x):
    """The released network at inference, on NHWC maps."""
    masks = []

    def conv(x, name, **kwargs):
        x = F.conv2d(x.permute(0, 3, 1, 2), state[f"{name}.weight"], state[f"{name}.bias"], **kwargs)
        return x.permute(0, 2, 3, 1)

    for i, depth in enumerate(depths):
        down = f"downsample_layers.{i}"
        if i == 0:
            x = norm(conv(x, f"{down}.0", stride=4), state, f"{down}.1", 1e-6)
        else:
            x = conv(norm(x, state, f"{down}.0", 1e-6), f"{down}.1", stride=2)
        for j in range(depth):
            block = f"stages.{i}.{j}"
            if i == 2 and j in (first, 2 * first, 3 * first):
                k = j // first - 1
                scores = log_probabilities(state, f"score_predictor.{k}", x.flatten(1, 2), 1e-6)[..., 0]
                masks.append(official_mask(scores, counts[k]))
            h = conv(x, f"{block}.dwconv", padding=3, groups=x.shape[-1])
            slow = linear(norm(h, state, f"{block}.norm", 1e-6), state, f"{block}.pwconv1")
            branch = state[f"{block}.gamma"] * linear(F.gelu(slow), state, f"{block}.pwconv2")
            if i == 2 and j >= first:
                fast = linear(norm(h, state, f"{block}.fast_path.0", 1e-6), state, f"{block}.fast_path.1")
                fast = state[f"{block}.fast_path_gamma"] * fast
                branch = torch.where(masks[-1].view(*h.shape[:3], 1), branch, fast)
            x = x + branch
    return norm(x.mean((1, 2)), state, "norm", 1e-6), masks


def vit_formula(state, depth, heads, counts, x):
    """The released network at inference: dropped tokens never come back. Class token, and the tokens kept at places."""
    patch = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    tokens = patch.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(tokens), -1, -1), tokens], dim=1) + state["pos_embed"]
    alive, kept = torch.arange(tokens.shape[1]).expand(len(tokens), -1), []
    for j in range(depth):
        name = f"blocks.{j}"
        if counts and j in (depth // 4, depth // 2, 3 * depth // 4):
            k = len(kept)
            scores = log_probabilities(state, f"score_predictor.{k}", x[:, 1:], 1e-5)[..., 0]
            best = scores.argsort(dim=1, descending=True)[:, : counts[k]]
            alive = alive.gather(1, best)
            kept.append(alive.sort(dim=1).values)
            chosen = x[:, 1:].gather(1, best[..., None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :1], chosen], dim=1)
        qkv = linear(norm(x, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), state, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1"))
        x = x + linear(hidden, state, f"{name}.mlp.fc2")
    return norm(x[:, 0], state, "norm", 1e-6), kept
