"""Picture files through a routed network, to be looked at."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import VISUALIZERS, init_default_scope
from mmengine.visualization import Visualizer
from PIL import Image
from torch import nn

from mmsparse.apis import find_deciders, find_routers
from mmsparse.cli.inferring import drawing_meta
from mmsparse.visualization.looking import Look, look


@dataclass(frozen=True)
class Limits:
    """How large a picture may be.

    Args:
        max_mb: Of its file, in MB.
        max_pixels: Of itself.
    """

    max_mb: float
    max_pixels: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"Expected argument `{name}` to be positive, but got {value}")

    def check(self, path: str | Path) -> None:
        """Refuse a large picture, or what is none, by its size and its header alone."""
        name, mb = Path(path).name, Path(path).stat().st_size / 1e6
        if mb > self.max_mb:
            raise ValueError(f"{name} has {mb:.1f} MB; at most {self.max_mb:g} are allowed (--max-mb)")
        try:
            with Image.open(path) as picture:
                pixels = picture.width * picture.height
        except Image.DecompressionBombError:
            pixels = math.inf
        except (OSError, SyntaxError, ValueError):
            raise ValueError(f"{name} cannot be read as a picture") from None
        if pixels > self.max_pixels:
            raise ValueError(f"{name} has more than {self.max_pixels / 1e6:g} million pixels (--max-pixels)")


class Viewer:
    """What makes a look out of a picture file, one at a time; nothing of it stays on the model.

    Args:
        model: A detector, segmenter or classifier in evaluation mode, with dynamic parts.
        cfg: Its config.
        limits: What is refused.
        score_thr: Boxes below it are not drawn.
        rounds: How often the dense and the routed network are timed, in turn; 0: not.
    """

    def __init__(self, model: nn.Module, cfg: Config, limits: Limits, score_thr: float = 0.3, rounds: int = 0) -> None:
        self.model, self.limits, self.score_thr, self.rounds = model, limits, score_thr, rounds
        self.visualizer, self.read = visualizer_of(cfg, drawing_meta(cfg)), reader_of(cfg)
        self._turn = threading.Lock()

    def __call__(self, path: str | Path, keep_ratio: float | None = None) -> Look:
        """``keep_ratio`` is that of every place; None: the model's own budgets."""
        name = Path(path).name
        self.limits.check(path)
        if cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is None:
            raise ValueError(f"{name} cannot be read as a picture")
        budget = None
        if keep_ratio is not None:
            budget = {part: [keep_ratio] * len(router.dials) for part, router in find_routers(self.model).items()}
        with self._turn:
            return look(self.model, self.visualizer, self.read(path), name, budget, self.score_thr, self.rounds)


def check_lookable(model: nn.Module, config: str) -> None:
    """Refuse a model whose keep maps nobody could see."""
    if not find_deciders(model):
        raise ValueError(f"{config} has no dynamic part: it looks everywhere, there is no keep map to draw")
    if (getattr(model, "test_cfg", None) or {}).get("mode") == "slide":
        raise ValueError(
            f"{config} cuts pictures into windows, and keep maps are of whole ones: "
            "--cfg-options model.test_cfg.mode=whole"
        )


def visualizer_of(cfg: Config, meta: dict[str, Any]) -> Visualizer:
    """The config's visualizer, which writes nowhere, and the classes it draws."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    visualizer = VISUALIZERS.build({"name": "visualizer", **cfg.visualizer, "vis_backends": None, "save_dir": None})
    visualizer.dataset_meta = meta
    return visualizer


def reader_of(cfg: Config) -> Callable[[str | Path], dict[str, Any]]:
    """What takes a picture file through a config's test pipeline, without the labels that it has not."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    steps = cfg.test_dataloader.dataset.pipeline
    pipeline = Compose([step for step in steps if "Annotations" not in str(step["type"])])
    return lambda path: pipeline(dict(img_path=str(path), img_id=0))
