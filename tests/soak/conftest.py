import json

import pytest


@pytest.fixture(scope="session")
def figures(request):
    """What was measured, by name; with ``--figures`` it is added to a file, which docs/reliability.md tells."""
    found = {}
    yield found
    if file := request.config.getoption("--figures"):
        kept = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**kept, **found}, indent=1) + "\n")
