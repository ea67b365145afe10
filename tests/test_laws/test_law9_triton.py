"""Law 9 for the Triton kernel: on a GPU where there is one, else in Triton's interpreter, in a process of its own."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsparse.analysis import count_macs
from mmsparse.ops import (
    from_tiles,
    slow_fast,
    slow_fast_conv2d,
    sparse_conv,
    sparse_conv2d,
    sparse_conv2d_reference,
    to_tiles,
)

ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_GPU else "cpu"
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
runs_kernel = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a GPU, or TRITON_INTERPRET=1")
as_it_is = pytest.mark.skipif(INTERPRETED, reason="of what is interpreted, the rest is replaced")

CHOSEN = {"none": slice(0), "some": slice(1, None, 2), "all": slice(None)}
SHAPES = [  # size of kernel, dilation, size of map, tile
    (3, 1, (1, 1), 1),
    (3, 1, (1, 1), 4),
    (3, 1, (7, 9), 1),
    (3, 1, (7, 9), 4),
    (3, 1, (4, 8), 3),
    (3, 2, (7, 9), 1),
    (3, 2, (7, 9), 4),
    (5, 1, (7, 9), 4),
    (1, 1, (7, 9), 4),
]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """No rounding to TF32. Without a GPU: the kernel all the same, and what Triton's interpreter lacks."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    if not INTERPRETED:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    from mmsparse.ops import sparse_conv_triton

    def widened(part):  # it multiplies the bits of bfloat16
        if part.dtype != tl.bfloat16:
            return part
        return TensorHandle((part.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    dot = InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda self, a, b, *c: dot(self, widened(a), widened(b), *c))
    tuned = sparse_conv_triton._kernel
    monkeypatch.setattr(tuned, "configs", tuned.configs[:1])  # it cannot measure which is best
    for module in (sparse_conv, slow_fast):
        monkeypatch.setattr(module, "kernels_for", lambda _: sparse_conv_triton)


def operands(size, kernel=3, channels=(6, 12), dtype=torch.float32):
    shapes = [(2, channels[0], *size), (channels[1], channels[0], kernel, kernel), channels[1:]]
    return [torch.randn(s, dtype=torch.float64).to(DEVICE, dtype).requires_grad_() for s in shapes]


def tiles_of(x, tile, chosen="some"):
    return torch.arange(len(to_tiles(x, tile)), device=x.device)[CHOSEN[chosen]]


def check_sparse(x, weight, bias, tile, dilation=1, chosen="some", atol=1e-4):
    """Values and gradients of ``sparse_conv2d`` against the reference in double precision."""
    inputs, idx = (x, weight, bias), tiles_of(x, tile, chosen)
    twins = [part.detach().double().requires_grad_() for part in inputs]
    ones = torch.ones(len(x), len(weight), *x.shape[-2:], device=x.device, dtype=x.dtype)
    actual = sparse_conv2d(*inputs, idx, tile, dilation) * to_tiles(ones, tile)[idx]
    expected = sparse_conv2d_reference(*twins, idx, tile, dilation)
    assert actual.dtype == x.dtype
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=atol)
    direction = torch.randn_like(expected)
    ours = torch.autograd.grad((actual * direction.to(actual.dtype)).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), twins)
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), wanted, rtol=0, atol=10 * atol)


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the kernel itself is tested")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 50


@runs_kernel
@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_dense_one_at_its_tiles(shape, chosen):
    kernel, dilation, size, tile = shape
    check_sparse(*operands(size, kernel), tile, dilation, chosen)


@runs_kernel
@pytest.mark.parametrize("dtype, atol", [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str)
def test_short_types(dtype, atol):
    check_sparse(*operands((5, 6), dtype=dtype), tile=4, atol=atol)


@runs_kernel
@pytest.mark.parametrize("channels", [(70, 12), (6, 70), (1, 1)], ids=str)
def test_widths_that_fill_no_block(channels):
    check_sparse(*operands((3, 5), channels=channels), tile=2, atol=5e-4)


@runs_kernel
@pytest.mark.parametrize("block", range(7))
def test_blocks(block, monkeypatch):
    from mmsparse.ops import sparse_conv_triton

    tuned = sparse_conv_triton._kernel
    assert len(sparse_conv_triton.BLOCKS) == 7
    one = dict(zip("MNK", sparse_conv_triton.BLOCKS[block], strict=False))
    if not INTERPRETED:
        monkeypatch.setattr(tuned, "configs", tuned.configs[:1])
    monkeypatch.setattr(tuned.configs[0], "kwargs", one)
    check_sparse(*operands((5, 6), channels=(70, 40)), tile=4, atol=5e-4)


@runs_kernel
@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.transpose(2, 3),
        lambda x: torch.cat([x, x], dim=1)[:, ::2],
        lambda x: torch.cat([x, x], dim=3)[..., : x.shape[-1]],
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x[:1],
    ],
    ids=["transposed", "channels", "columns", "channels-last", "one"],
)
def test_strided_inputs_and_kernels(strided):
    x, weight, bias = operands((5, 6))
    x = strided(x.detach()).requires_grad_()
    check_sparse(x, weight.detach().to(memory_format=torch.channels_last).requires_grad_(), bias, tile=4)


@runs_kernel
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("tile, dilation, size", [(1, 1, (7, 9)), (4, 2, (7, 9)), (4, 1, (1, 1))])
def test_whole_maps(tile, dilation, size, chosen, bias):
    x, *slow = (part.detach() for part in operands(size))
    fast = [torch.randn(12, 6, device=x.device), torch.randn(12, device=x.device)]
    if not bias:
        slow[1] = fast[1] = None
    keep = tiles_of(x, tile, chosen)
    rest = tiles_of(x, tile, "all")
    rest = rest[~torch.isin(rest, keep)]
    actual = slow_fast_conv2d(x, slow, fast, keep, rest, tile, dilation)
    exact = [None if part is None else part.double() for part in (x, *slow, *fast)]
    kept = F.conv2d(exact[0], *exact[1:3], padding="same", dilation=dilation)
    others = F.conv2d(exact[0], exact[3][:, :, None, None], exact[4])
    tiles = torch.cat([to_tiles(kept, tile)[keep], to_tiles(others, tile)[rest]])[torch.cat([keep, rest]).argsort()]
    torch.testing.assert_close(actual.double(), from_tiles(tiles, x.shape, tile), rtol=0, atol=1e-4)


@runs_kernel
def test_autocast():
    x, weight, bias = operands((5, 6))
    idx = tiles_of(x, 4)
    short = [part.detach().bfloat16() for part in (x, weight, bias)]
    for learning in (False, True):
        with torch.set_grad_enabled(learning), torch.autocast(x.device.type, torch.bfloat16):
            actual = sparse_conv2d(x, weight, bias, idx, 4)
        assert actual.dtype == torch.bfloat16
        assert torch.equal(actual, sparse_conv2d(*short, idx, 4))
    assert torch.autograd.grad(actual.sum(), weight)[0].dtype == torch.float32


@runs_kernel
def test_pytorch_knows_the_operator():
    x, weight, bias = (part.detach() for part in operands((3, 4)))
    rows, idx = x.permute(0, 2, 3, 1).flatten(0, 2), tiles_of(x, 2, "all")[1:]
    run, rest = torch.ops.mmsparse.sparse_conv2d, (3, 4, weight, bias, idx, 2, 1)
    torch.library.opcheck(run, (rows, *rest), test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(run(rows.t().contiguous().t(), *rest), run(rows, *rest))  # in whatever memory a compiler gives


@runs_kernel
def test_types_must_agree():
    x, weight, bias = operands((3, 4))
    with torch.no_grad(), pytest.raises(TypeError, match="weight and bias to be torch.float32.*got torch.float16"):
        slow_fast_conv2d(
            x, (weight.half(), bias), (weight[:, :, 0, 0], bias), *tiles_of(x, 2, "all").tensor_split(2), 2
        )


@pytest.fixture
def maps():
    """On a GPU in name: tensors that claim to be there, and hold nothing."""

    def make(device):
        shapes = ((2, 6, 7, 9), (12, 6, 3, 3), (12,), (12, 6))
        return *(torch.empty(shape, device=device) for shape in shapes), torch.arange(12, device=device)

    with FakeTensorMode():
        yield make


@as_it_is
def test_counted_as_the_plain_versions(maps):
    for device in ("cpu", "cuda"):
        x, weight, bias, fast, idx = maps(device)
        model = torch.nn.Identity()
        assert count_macs(model, lambda: sparse_conv2d(x, weight, bias, idx[:3], 4)).total == 3 * 16 * 12 * 54
        whole = count_macs(model, lambda: slow_fast_conv2d(x, (weight, bias), (fast, bias), idx[:3], idx[3:], 4)).total
        assert whole == 3 * 16 * 12 * 54 + 9 * 16 * 12 * 6


@as_it_is
def test_exported_as_one_operator(maps):
    x, weight, _, _, idx = maps("cuda")

    class Wrapped(torch.nn.Module):
        def forward(self, x, weight, idx, groups):
            return sparse_conv2d(x, weight, None, idx, 4, groups=groups)

    def names(weight, groups):
        program = torch.export.export(Wrapped(), (x, weight, idx, groups))
        return {str(node.target) for node in program.graph.nodes}

    with torch.no_grad():
        assert "mmsparse.sparse_conv2d.default" in names(weight, 1)
        assert "aten.conv2d.default" in names(weight[:, :1], 6)


@as_it_is
def test_tf32_where_pytorch_may(monkeypatch):
    from mmsparse.ops.sparse_conv_triton import _allows_tf32

    assert not _allows_tf32(3) and not _allows_tf32(1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert _allows_tf32(3) and not _allows_tf32(1)
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        assert _allows_tf32(1)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@as_it_is
@pytest.mark.parametrize("capability, products", [(80, r"mma\.sync\S*bf16"), (90, r"wgmma\.mma_async\S*bf16")])
def test_compiles_to_tensor_cores_and_copies_that_do_not_wait(capability, products):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmsparse.ops.sparse_conv_triton import _kernel

    block = _kernel.configs[1]
    fixed = dict(CHANNELS=64, FEATURES=64, TILE=4, KERNEL=3, DILATION=1, BIAS=True, TO_MAP=True, PRECISION="ieee")
    types = dict.fromkeys(_kernel.arg_names, "i32") | dict.fromkeys(("rows", "weight", "bias", "out"), "*bf16")
    types |= {"idx": "*i64"} | dict.fromkeys(fixed | block.kwargs, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(_kernel.arg_names) if types[name][0] == "*"
    }
    source = ASTSource(_kernel.fn, types, fixed | block.kwargs, aligned)
    options = dict(num_warps=block.num_warps, num_stages=block.num_stages)
    ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    assert re.search(products, ptx)
    assert re.search(r"cp\.async\.cg\.shared\.global \[[^]]*\], \[[^]]*\], 0x10", ptx)  # 16 bytes at once
    assert "st.global.v4" in ptx


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
def test_large_maps_on_a_gpu():
    """Tuned blocks at widths of real networks; more than 2^31 numbers in a map."""
    for dtype, atol in ((torch.float32, 2e-3), (torch.bfloat16, 1.0)):
        check_sparse(*operands((50, 84), channels=(256, 256), dtype=dtype), tile=4, atol=atol)
    x = torch.randn(1, 64, 6000, 6000, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    weight = torch.randn(32, 64, 3, 3, device="cuda", dtype=torch.float16) / 24
    last = torch.tensor([1500 * 1500 - 1], device="cuda")
    corner = F.conv2d(x[..., -5:, -5:].float(), weight.float(), padding=1)[..., 1:, 1:]
    actual = sparse_conv2d(x, weight, None, last, 4)
    torch.testing.assert_close(actual.float(), corner.permute(0, 2, 3, 1).flatten().view(1, -1), rtol=0, atol=0.01)
