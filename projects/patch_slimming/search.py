"""Search the tokens that each block of a trained Vision Transformer must compute.

Reads the config and the checkpoint of a dense network, draws pictures of its training set, and writes a mask file, the
checkpoint with the blocks that were rebuilt, a config that uses both, a table and a picture. An interrupted search
continues behind the last block that was finished.
"""

import argparse
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn
from tqdm import tqdm

from mmsparse import compat, sparsify
from mmsparse.analysis import count_macs
from mmsparse.calls import prepare_batch
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.building import build_model, build_plain
from mmsparse.cli.data_files import check_dataset
from mmsparse.cli.launch import check_writable
from mmsparse.cli.mistakes import say_mistakes
from mmsparse.configs import read_config
from mmsparse.trust import add_trust, trust_checkpoints

from .masks import SlimMasks
from .report import draw, table
from .top_down import Progress, Settings, TopDown

STATE, MASKS, WEIGHTS, CONFIG, TABLE, PICTURE = (
    "search.pth",
    "masks.json",
    "slim.pth",
    "slim_config.py",
    "table.md",
    "masks.png",
)


@dataclass(frozen=True)
class Calibration:
    """Which pictures a search looks at: so many of the training set, drawn anew for each block."""

    pictures: int = 256
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pictures < 1:
            raise ValueError(
                f"Expected argument `pictures` to be at least 1, because an empty calibration set says nothing of any "
                f"token, but got {self.pictures}"
            )
        if self.batch_size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {self.batch_size}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m projects.patch_slimming.search", description=__doc__)
    parser.add_argument("config", help="of the dense network, whose backbone is a plain ViT")
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--out", required=True, help="folder for what is found; holds the state of an unfinished search"
    )
    settings, calibration = Settings(), Calibration()
    parser.add_argument(
        "--eps", type=float, default=settings.eps, help="how wrong the block behind may get, as a share"
    )
    parser.add_argument("--step", type=int, default=settings.step, help="tokens that are added at once")
    parser.add_argument("--epochs", type=int, default=settings.epochs, help="training of a block after each step")
    parser.add_argument("--lr", type=float, default=settings.lr)
    parser.add_argument("--control", action="store_true", help="add tokens at random, to see what the scores are worth")
    parser.add_argument("--pictures", type=int, default=calibration.pictures, help="drawn for each block")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=calibration.batch_size,
        help="lower it for large pictures: the attention maps of all blocks are held at once",
    )
    parser.add_argument("--seed", type=int, default=calibration.seed)
    parser.add_argument("--overwrite", action="store_true", help="begin anew, whatever is in the folder")
    add_trust(parser)
    add_config_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    trust_checkpoints(args.trust_checkpoint)
    settings = Settings(args.eps, args.step, args.epochs, args.lr, args.control)
    calibration = Calibration(args.pictures, args.batch_size, args.seed)
    out = Path(args.out).absolute()
    check_writable(out, "out")
    cfg = read_config(args.config, args.cfg_options)
    slim = slim_config(cfg, str(out / MASKS))
    check_dataset(cfg, "train")
    model = build_model(dense_config(slim), args.checkpoint)
    asked = dict(config=args.config, checkpoint=args.checkpoint, options=str(args.cfg_options or {}))
    asked.update(**asdict(settings), **asdict(calibration))
    pictures = Pictures(model, cfg, calibration)
    masks, progress = search(model, pictures, settings, out / STATE, asked, args.overwrite)
    masks.write(out / MASKS)
    _save(out / WEIGHTS, dict(state_dict=model.state_dict()))
    draw(masks, out / PICTURE)
    text = f"{table(masks, progress.errors)}\n\n{describe_cut(model.backbone, build_plain(slim).backbone, masks)}"
    (out / TABLE).write_text(text + "\n")
    _write_config(args.config, args.cfg_options, out)
    print(f"{text}\n\nwrote {', '.join((MASKS, WEIGHTS, CONFIG, TABLE, PICTURE))} in {args.out}")
    print(f"python tools/train.py {out / CONFIG}   # trains the slimmed network as the dense one was")


def search(
    model: nn.Module, pictures: "Pictures", settings: Settings, state: Path, asked: dict[str, Any], anew: bool = False
) -> tuple[SlimMasks, Progress]:
    """Search block by block.

    Args:
        model: With a dense ``DynamicViT``, in evaluation mode; its blocks are trained.
        pictures: To look at.
        settings: See ``Settings``.
        state: The file that holds what is known after each block; a search that it holds is continued.
        asked: What that search must have been asked for, too.
        anew: Begin from nothing all the same.
    """
    backbone = model.backbone
    deciding = TopDown(backbone, settings, whole=backbone.out_type != "cls_token")
    with torch.no_grad():
        x, grid = backbone._embed(pictures.some(1)[0])
    if tuple(grid) != tuple(backbone.patch_resolution):
        raise ValueError(
            f"The training set's pictures make {'x'.join(map(str, grid))} patches, but the network is for "
            f"{'x'.join(map(str, backbone.patch_resolution))}. Set img_size in its backbone to the size of the pictures"
        )
    progress = None if anew else _continue(model, state, asked)
    if progress is None:
        progress = deciding.start(x.shape[1])
    state.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=progress.next + 1, desc="blocks") as bar:
        while progress.next >= 0:
            bar.set_postfix(block=progress.next)
            deciding.block(progress, pictures.draw, lambda **known: bar.set_postfix(block=progress.next, **known))
            _save(state, dict(asked=asked, progress=vars(progress), state_dict=model.state_dict()))
            bar.update()
    extra, patch = backbone.num_extra_tokens, backbone.patch_embed.projection.stride[0]
    order = progress.scores[:, extra:].argsort(stable=True).argsort()
    masks = SlimMasks(grid, patch, progress.kept[:, extra:].cpu(), order)
    if not masks.places:
        raise ValueError(
            f"Argument `eps`={settings.eps}: no token of any block can be left out with an error that small. "
            "Choose a larger one"
        )
    return masks, progress


class Pictures:
    """Batches of a config's training set, through its own pipeline and the model's preprocessor."""

    def __init__(self, model: nn.Module, cfg: Config, calibration: Calibration) -> None:
        if not cfg.get("train_dataloader"):
            raise ValueError("The config has no `train_dataloader`, whose pictures the search would look at")
        init_default_scope(cfg.get("default_scope", "mmengine"))
        self.dataset = _build_dataset(cfg)
        self.model = model
        self.calibration = calibration

    def draw(self, block: int) -> list[Tensor]:
        """The same pictures for a block whenever it is asked, others for another."""
        torch.manual_seed(self.calibration.seed + block)  # augmentations, too
        np.random.seed(self.calibration.seed + block)
        random.seed(self.calibration.seed + block)
        return self.some(self.calibration.pictures)

    def some(self, count: int) -> list[Tensor]:
        numbers = torch.randperm(len(self.dataset))[:count].tolist()
        size = self.calibration.batch_size
        batches = [
            prepare_batch(self.model, [self.dataset[n] for n in numbers[start : start + size]])["inputs"]
            for start in range(0, len(numbers), size)
        ]
        shapes = sorted({tuple(batch.shape[-2:]) for batch in batches})
        if len(shapes) > 1:
            raise ValueError(
                f"The training set's pictures have the sizes {shapes}, but masks are for one grid. Let the pipeline of "
                "train_dataloader make pictures of one size"
            )
        return batches


def _build_dataset(cfg: Config) -> Any:
    empty = "The calibration set is empty: the config's training set has no pictures"
    try:
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
    except ValueError as error:
        if "at least one array" in str(error):  # mmengine's way to say so
            raise ValueError(empty) from error
        raise
    if not len(dataset):
        raise ValueError(empty)
    return dataset


def slim_config(cfg: Config, masks: str) -> Config:
    """The config of the slimmed network: masks in place of a keep ratio, and a hook that takes what they decided."""
    slim = sparsify(cfg, 1.0, hook=dict(anneal=None))
    backbone = slim.model.backbone
    if backbone.type != "mmsparse.DynamicViT":
        raise ValueError(f"Argument `config`: the backbone of the network is no plain ViT, but a {backbone.type}")
    backbone.type = "mmsparse.SlimViT"
    backbone.pop("sparsity")
    backbone.masks = masks
    imports = (slim.get("custom_imports") or {}).get("imports", [])
    slim.custom_imports = dict(imports=[*imports, "projects.patch_slimming"], allow_failed_imports=False)
    return slim


def dense_config(slim: Config) -> Config:
    """The same network with nothing dropped."""
    dense = Config(slim.to_dict())
    dense.model.backbone.type = "mmsparse.DynamicViT"
    dense.model.backbone.pop("masks")
    return dense


def _write_config(path: str, options: dict[str, Any] | None, out: Path) -> None:
    """The given config with what was found, not fitted to this machine."""
    cfg = compat.load_config(path)
    cfg.merge_from_dict(options or {})
    slim = slim_config(cfg, str(out / MASKS))
    slim.load_from = str(out / WEIGHTS)
    slim.dump(out / CONFIG)


def describe_cut(dense: nn.Module, slim: nn.Module, masks: SlimMasks) -> str:
    """Arithmetic of the backbones at the masks' own size of pictures."""
    height, width = (side * masks.patch_size for side in masks.grid)

    def macs(backbone: nn.Module) -> int:
        picture = torch.zeros(1, 3, height, width, device=next(backbone.parameters()).device)
        return count_macs(backbone.eval(), lambda: backbone(picture)).total

    before, left = macs(dense), macs(slim)
    return (
        f"backbone, {height}x{width}: {before / 1e9:.4f} GMACs dense, {left / 1e9:.4f} slimmed, "
        f"{100 * (1 - left / before):.1f} % less"
    )


def _continue(model: nn.Module, path: Path, asked: dict[str, Any]) -> Progress | None:
    """What an earlier run found."""
    if not path.is_file():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["asked"] != asked:
        differing = [key for key in asked if state["asked"].get(key) != asked[key]]
        raise ValueError(
            f"Argument `out`: {str(path.parent)!r} holds a search that was asked for other {', '.join(differing)}. "
            "Choose another folder, or replace it with --overwrite"
        )
    model.load_state_dict(state["state_dict"])
    progress = Progress(**state["progress"])
    progress.kept = progress.kept.to(next(model.parameters()).device)
    return progress


def _save(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    torch.save(content, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


if __name__ == "__main__":
    with say_mistakes():
        main()
