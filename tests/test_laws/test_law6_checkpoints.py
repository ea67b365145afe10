"""Law 6: every dense key exists under the same name; loading a dense checkpoint leaves only new parts missing."""

import re

import pytest
from network import ids
from networks import ALL


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("network", ALL, ids=ids)
def test_dense_keys(network):
    dense = network.stock().state_dict()
    dynamic = network.dynamic(sparsity=dict(keep_ratio=0.7))
    result = dynamic.load_state_dict(dense, strict=False)
    assert result.unexpected_keys == []
    own = r"(part\.(encoder\.)?)?router\.(decisions|fast_paths|shared_scorer)\.|predictor\.|policy\.|stabiliser\."
    assert result.missing_keys and all(re.match(own, key) for key in result.missing_keys)
    assert {key: value.shape for key, value in dynamic.state_dict().items() if key in dense} == {
        key: value.shape for key, value in dense.items()
    }
