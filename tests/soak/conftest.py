import json

import pytest

from mmsparse.files import write_whole


@pytest.fixture(scope="session")
def figures(request):
    """What was measured, by name; with ``--figures`` it is added to a file, which docs/reliability.md tells."""
    found = {}
    yield found
    if file := request.config.getoption("--figures"):
        kept = json.loads(file.read_text()) if file.is_file() else {}
        write_whole(json.dumps({**kept, **found}, indent=1) + "\n", file)
