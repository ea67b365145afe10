"""Which files ``mmsparse app`` shows to those who ask it. It needs Gradio and no browser."""

import os
from pathlib import Path

import pytest
from scenes import ROOT
from served import draw_boards, over_http, served_with

pytestmark = pytest.mark.browser


def test_the_app_reads_only_what_was_sent_to_it(tmp_path):
    """No picture that lies on its machine, by any path."""
    listed, hidden = draw_boards(tmp_path, [(160, 160), (160, 224)])
    with served_with([listed], tmp_path) as served:
        send, ask, answer = over_http(served)
        own = Path(send("own.png", listed.read_bytes()))
        assert "of the arithmetic" in answer(ask(str(own), None, 0.5))
        beside = os.path.relpath(hidden, own.parent)
        paths = [hidden, os.path.relpath(hidden, ROOT), "docs/boards_front.png", f"{own.parent}/{beside}"]
        told = {path: answer(ask(str(path), None, 0.5)) for path in paths}
        shown = [path for path, page in told.items() if "of the arithmetic" in page]
        assert not shown and all("\n" not in page for page in told.values())
        elsewhere = answer(ask("http://192.0.2.1/board.png", None, 0.5))
        assert elsewhere == "Send the picture itself: no other machine is asked for it"
        assert "of the arithmetic" in answer(ask(str(own), None, 0.5))
