"""What Hypothesis draws for the tests of test_properties.

``pytest tests/test_properties --hypothesis-profile=long`` tries thousands of new examples of each.
"""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from mmsparse.sparsity import Geometry

if settings.get_current_profile_name() == "default":
    settings.load_profile("ci")


def one_in(number):
    """So many fewer examples, where one takes long or there are many cases."""
    return settings(max_examples=max(settings().max_examples // number, 1))


SIDES, TILES, BATCHES = st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)
EXTRA, NONE, ONE = st.integers(0, 2), st.just(0), st.just(1)
SEEDS = st.integers(0, 2**32 - 1)
RATIOS = st.floats(1e-3, 1.0) | st.sampled_from([0.5, 0.7 - 0.2, 1.0])
DTYPES = st.sampled_from([
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64),
])  # fmt: skip


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def flags(number):
    """Boolean tensors of so many entries."""
    shares = st.sampled_from([0.5, 0.2, 0.8, 0.0, 1.0])
    return st.builds(lambda seed, share: uniform(seed, number) < share, SEEDS, shares)


def positions(mask):
    return torch.tensor([place for place, flag in enumerate(mask.flatten().tolist()) if flag], dtype=torch.long)


@st.composite
def geometries(draw, tiles=TILES, extra=EXTRA):
    return Geometry((draw(SIDES), draw(SIDES)), draw(tiles), draw(extra))
