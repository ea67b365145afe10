"""Law 9 for the Triton kernel: on a GPU where there is one, else in Triton's interpreter, in a process of its own."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from operands import CASES, DTYPES, LAYOUTS, SIGMAS, differences, rounding, watched

from mmsparse.ops import OPERATORS, Rows, slow_fast_conv2d, sparse_conv2d, sparse_conv2d_reference, to_tiles

ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_GPU else "cpu"
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
runs_kernel = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a GPU, or TRITON_INTERPRET=1")
as_it_is = pytest.mark.skipif(INTERPRETED, reason="of what is interpreted, the rest is replaced")

if INTERPRETED and not ON_GPU:  # on the processor, too
    for operator in OPERATORS.values():
        for kernel in [kernel for kernel in operator.kernels if kernel.name == "triton"]:
            operator.kernel("cpu", kernel.suits, "triton")(kernel.run)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """No rounding to TF32. Without a GPU: what Triton's interpreter lacks."""
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


def operands(size, kernel=3, channels=(6, 12), dtype=torch.float32):
    shapes = [(2, channels[0], *size), (channels[1], channels[0], kernel, kernel), channels[1:]]
    return [torch.randn(s, dtype=torch.float64).to(DEVICE, dtype).requires_grad_() for s in shapes]


def check_sparse(x, weight, bias, tile):
    """Values of ``sparse_conv2d`` against the reference in double precision."""
    count = len(to_tiles(x, tile))
    idx = torch.arange(count, device=x.device)[1::2]
    exact = sparse_conv2d_reference(x.double(), weight.double(), bias.double(), idx, tile)
    inside = to_tiles(torch.ones_like(exact[:1, :1]).expand(len(x), len(weight), *x.shape[-2:]), tile)[idx]
    actual = sparse_conv2d(x, weight, bias, idx, tile) * inside
    bound = SIGMAS * rounding(exact, weight[0].numel() + 1, x.dtype)
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=bound)


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the kernel itself is tested")
def test_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 20


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU it is one of the kernels of test_law9_ops")
@pytest.mark.parametrize("form", [*DTYPES[1:], *LAYOUTS], ids=str)
@pytest.mark.parametrize("name", ["slow_fast_conv2d", "sparse_conv2d"])
def test_values(name, form, monkeypatch):
    operator = OPERATORS[name]
    kernels, calls = watched(operator, operator.kernels[-1])
    monkeypatch.setattr(operator, "kernels", kernels)
    dtype, layout = (torch.float32, form) if form in LAYOUTS else (form, None)
    cases = [case for case in CASES[name]() if "64" not in case.name]
    with torch.no_grad():
        for case in cases[:: 7 if form == torch.float32 else 41]:  # the interpreter is slow
            differences(case, case.to(dtype, DEVICE, layout))
    assert calls


@runs_kernel
@pytest.mark.parametrize("channels", [(70, 12), (6, 70), (1, 1)], ids=str)
def test_widths_that_fill_no_block(channels):
    check_sparse(*operands((3, 5), channels=channels), tile=2)


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
    check_sparse(*operands((5, 6), channels=(70, 40)), tile=4)


@runs_kernel
def test_autocast():
    x, weight, bias = operands((5, 6))
    idx = torch.arange(1, 4, 2, device=x.device)
    short = [part.detach().bfloat16() for part in (x, weight, bias)]
    for learning in (False, True):
        with torch.set_grad_enabled(learning), torch.autocast(x.device.type, torch.bfloat16):
            actual = sparse_conv2d(x, weight, bias, idx, 4)
        assert actual.dtype == torch.bfloat16
        assert torch.equal(actual, sparse_conv2d(*short, idx, 4))
    assert torch.autograd.grad(actual.sum(), weight)[0].dtype == torch.float32


@runs_kernel
def test_types_must_agree():
    x, weight, bias = operands((3, 4))
    rows = Rows.of(torch.arange(4, device=x.device) < 2)
    with torch.no_grad(), pytest.raises(TypeError, match="weight and bias to be torch.float32.*got torch.float16"):
        slow_fast_conv2d(x, (weight.half(), bias), (weight[:, :, 0, 0], bias), rows, 2)


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
    for dtype in (torch.float32, torch.bfloat16):
        check_sparse(*operands((50, 84), channels=(256, 256), dtype=dtype), tile=4)
    x = torch.randn(1, 64, 6000, 6000, device="cuda", dtype=torch.float16).to(memory_format=torch.channels_last)
    weight = torch.randn(32, 64, 3, 3, device="cuda", dtype=torch.float16) / 24
    last = torch.tensor([1500 * 1500 - 1], device="cuda")
    corner = F.conv2d(x[..., -5:, -5:].float(), weight.float(), padding=1)[..., 1:, 1:]
    actual = sparse_conv2d(x, weight, None, last, 4)
    torch.testing.assert_close(actual.float(), corner.permute(0, 2, 3, 1).flatten().view(1, -1), rtol=0, atol=0.01)
