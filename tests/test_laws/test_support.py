"""The page of what works where is what its tests found, of every network."""

import json
from pathlib import Path

import pytest
import support
from networks import ALL, LIGHT
from part_networks import KIN

PAGE = Path(__file__).parents[2] / "docs/support.md"


@pytest.mark.usefixtures("unfilled")
def test_the_page_is_of_the_results_beside_it():
    found = json.loads(PAGE.with_suffix(".json").read_text())
    assert found.keys() >= {network.name for network in [*LIGHT, *KIN]} and found.keys() <= {n.name for n in ALL + KIN}
    assert PAGE.read_text() == support.page(found)
