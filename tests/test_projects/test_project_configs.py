"""The configs of all projects can be read and built, and their hooks are known."""

import pytest
from mmengine.registry import MODELS, init_default_scope
from scenes import ROOT

from mmsparse.configs import read_config, without_pretrained
from mmsparse.registry import build_hooks

PATHS = sorted((ROOT / "projects").glob("*/configs/*.py"))


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_builds(path):
    cfg = read_config(str(path))
    assert cfg.custom_imports["imports"] == [f"projects.{path.parents[1].name}"]
    assert cfg.custom_imports["allow_failed_imports"] is False
    init_default_scope(cfg.default_scope)
    assert build_hooks(cfg.custom_hooks)
    without_pretrained(cfg.model)
    MODELS.build(cfg.model)


def test_every_project_is_listed_and_says_what_it_is():
    table = (ROOT / "projects/README.md").read_text()
    for folder in sorted(path.parent for path in (ROOT / "projects").glob("*/__init__.py")):
        assert f"`{folder.name}`" in table or f"[{folder.name}]({folder.name})" in table
        readme = (folder / "README.md").read_text()
        for config in folder.glob("configs/*.py"):
            assert config.name in readme, config
