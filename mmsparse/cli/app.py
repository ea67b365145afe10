"""The local page of ``mmsparse app``, by Gradio: what it asks a viewer, and how it is served."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mmsparse.cli.building import machine
from mmsparse.cli.viewing import Viewer
from mmsparse.mistakes import is_mistake
from mmsparse.visualization.page import fragment

if TYPE_CHECKING:
    import gradio

KEPT = 3600  # seconds that pictures of visitors stay on disk
SESSIONS = 64  # of visitors, of which Gradio keeps the last page


def check_gradio() -> None:
    """Say how to get it before anything long begins."""
    if find_spec("gradio") is None:
        raise RuntimeError("mmsparse app needs Gradio, which is not installed: pip install 'mmsparse[app]'")


@contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is this process's from before the model is built."""
    if not 0 <= port < 65536:
        raise ValueError(f"Expected argument `port` to be in 0 to 65535, but got {port}")
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a page that has just ended
        try:
            door.bind((host, port))
            door.listen()
        except OSError as error:
            raise OSError(
                f"Cannot listen at {host}:{port}: {error.strerror}. Choose another --port (0: any) or --host"
            ) from error
        yield door


def make_page(viewer: Viewer, title: str, pictures: Mapping[str, Path]) -> "gradio.Blocks":
    """A picture at a time: the visitor's own, or one of those that are given by their names."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at the import
    import gradio

    def show(own: str | None, name: str | None, as_trained: bool, ratio: float) -> str:
        path = own or pictures.get(name)
        if path is None:
            return ""
        try:
            return fragment([viewer(path, None if as_trained else ratio)], title, machine())
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            if not is_mistake(error):
                raise
            return f"<p>{escape(str(error))}</p>"

    settings = dict(analytics_enabled=False, delete_cache=(KEPT, KEPT), fill_width=True)
    with gradio.Blocks(title=f"mmsparse: {title}", **settings) as page:
        with gradio.Row():
            own = gradio.File(label="Drop a picture", file_types=["image"], height=130)
            refuse_addresses(own)
            name = gradio.Dropdown(
                list(pictures), value=next(iter(pictures), None), label="or choose one", visible=bool(pictures)
            )
            with gradio.Column():
                as_trained = gradio.Checkbox(True, label="the budget of the config")
                ratio = gradio.Slider(0.1, 1.0, 0.5, step=0.05, label="or this keep ratio everywhere (1: dense)")
        shown = gradio.HTML(apply_default_css=False)
        inputs = [own, name, as_trained, ratio]
        one = dict(outputs=shown, concurrency_limit=1, concurrency_id="look", trigger_mode="always_last")
        gradio.on([page.load, own.upload, as_trained.input], show, inputs, **one)
        name.select(lambda *given: show(None, *given), inputs[1:], **one)
        name.select(lambda: None, outputs=own, queue=False)
        ratio.input(lambda own, name, ratio: show(own, name, False, ratio), [own, name, ratio], **one)
        ratio.input(lambda: False, outputs=as_trained, queue=False)
    return page


def refuse_addresses(own: "gradio.File") -> None:
    """A file may be named by its address, which Gradio would ask another machine for."""
    import gradio

    take = own.async_move_resource_to_block_cache

    async def take_own(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise gradio.Error("Send the picture itself: no other machine is asked for it")
        return await take(path)

    own.async_move_resource_to_block_cache = take_own


def serve(page: "gradio.Blocks", door: socket.socket, max_mb: float) -> None:
    """Until it is interrupted. Nothing is asked of other machines, by the server or by the page."""
    import gradio
    import uvicorn
    from fastapi import FastAPI

    page.has_launched = True  # before it is, Gradio reads any file of this machine that a request names
    page.state_session_capacity = SESSIONS
    host, port = door.getsockname()
    app = gradio.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        "/",
        host,
        port,
        footer_links=[],
        run_history=False,
        max_file_size=int(max_mb * 1e6),
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )
    print(f"http://{host}:{port} shows it; Ctrl+C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[door])
