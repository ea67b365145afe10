"""How the pages become a site: ``make docs``. Its source is the repository, so that links hold in both."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # the package, and generate.py

import generate  # noqa: E402

from mmsparse import __version__  # noqa: E402

project, author, version, release = "mmsparse", "the mmsparse authors", __version__, __version__
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "configs/*/README.md"]
include_patterns += ["projects/README.md", "projects/*/README.md", "tools/*/README.md"]
exclude_patterns = [".*", "build", "data", "dist", "mmsparse", "tests", "work_dirs"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
nitpicky = True  # of our own names; the inventories of others lie on the network
nitpick_ignore_regex = [
    ("py:.*", r"(?!mmsparse\.).*"),
    ("py:class", r"mmsparse\..*\.(Attention|BlockAttention|FeedForward|NormLinear)"),  # inner ones, in signatures alone
]

html_theme = "furo"
html_title = f"mmsparse {version}"
html_show_copyright = html_copy_source = False


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    if page in generate.PAGES:
        texts = generate.PAGES[page]()
        for text in [texts] if isinstance(texts, str) else texts:
            source[0] = source[0].replace(generate.MARK, text, 1)


def open_folders(app: Sphinx, tree: nodes.document) -> None:
    """A link to a folder leads to its README, as it does where the repository is shown, or is plain text."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(tree.findall(lambda node: isinstance(node, pending_xref) and node["reftype"] == "myst")):
        page = here / link["reftarget"] / "README.md"
        if page.exists():
            link["refdomain"] = "doc"
            link["reftarget"], link["reftargetid"] = app.env.path2doc(page.resolve()), None
        elif page.parent.is_dir():
            link.replace_self(link.children)


def begin_at_the_index(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        aim = f"{root_doc}.html"
        (Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={aim}">\n')


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill)
    app.connect("doctree-read", open_folders)
    app.connect("build-finished", begin_at_the_index)
