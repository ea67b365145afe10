"""Checkpoint files: read in one way, and checked against the model they are for."""

from collections import OrderedDict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from mmsparse import compat
from mmsparse.packaged import weights_path
from mmsparse.sparsity import adopt, new_prefixes
from mmsparse.trust import UntrustedError, trusting

SAFETENSORS = ".safetensors"  # weights and nothing else, as the Hugging Face hub has them
COMPUTED = ("relative_position_index", "attn_mask")  # buffers that a checkpoint may leave out


def require_safetensors(argument: str, path: str | Path) -> None:
    if find_spec("safetensors") is None:
        raise ValueError(f"Argument `{argument}`: {path} needs the package safetensors: pip install safetensors")


def check_checkpoint(path: str, argument: str = "checkpoint") -> str:
    if "://" not in path and not weights_path(path).is_file():
        folder = ", a folder" * Path(path).is_dir()
        raise FileNotFoundError(f"Expected argument `{argument}` to be a file, but got {path!r}{folder}")
    return path


def read_checkpoint(path: str, argument: str = "checkpoint", trust: bool | None = None) -> dict[str, Any]:
    """What a file or a URL holds, on the CPU.

    Args:
        path: The file or the URL.
        argument: The name by which the user gave it.
        trust: Whether it may run code; None is what ``mmsparse.trust_checkpoints`` was told, and else no.
    """
    check_checkpoint(path, argument)
    if path.endswith(".index.json"):
        raise ValueError(f"Argument `{argument}`: {path} lists the parts of a file; join them in one first")
    if path.endswith(SAFETENSORS):
        require_safetensors(argument, path)
        if "://" in path:
            raise ValueError(f"Argument `{argument}`: {path} must be downloaded first; give the path of the file")
    compat.prepare()
    try:
        with trusting(trust):
            content = CheckpointLoader.load_checkpoint(path, map_location="cpu")
    except UntrustedError as error:
        raise ValueError(f"Argument `{argument}`: {error}") from error
    except Exception as error:  # unpickling fails in many ways
        what = "cannot be fetched or is no checkpoint" if "://" in path else "is not a checkpoint that PyTorch can read"
        reason = f"{what} ({type(error).__name__})"
        raise ValueError(f"Argument `{argument}`: {path} {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Argument `{argument}`: {path} holds no weights, but a {type(content).__name__}")
    return content


def weights_of(content: dict[str, Any], keys: Sequence[str] = ("state_dict",)) -> OrderedDict[str, Tensor]:
    """The weights in a checkpoint, by default where mmengine looks for them: without the prefix of a wrapper.

    Args:
        content: What the file holds.
        keys: Where the weights may be; they are the content itself if it has none of these keys.
    """
    state = next((content[key] for key in keys if isinstance(content.get(key), dict)), content)
    weights = OrderedDict((str(k).removeprefix("module."), v) for k, v in state.items() if isinstance(v, Tensor))
    if hasattr(state, "_metadata"):  # versions, by which some modules rename what they are given
        weights._metadata = state._metadata
    return weights


def check_weights(model: nn.Module, state: dict[str, Tensor], path: str, argument: str = "checkpoint") -> None:
    """A dense checkpoint may lack what is new, another model's is refused."""
    adopt(model, state)
    own, new = model.state_dict(), new_prefixes(model)
    absent = [key for key in own if key not in state and not key.endswith(COMPUTED)]
    dense = not any(key.startswith(new) for key in state)
    missing = [key for key in absent if not (dense and key.startswith(new))]
    misshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or misshaped:
        raise RuntimeError(
            f"Argument `{argument}`: {path} does not fit this model: {len(missing)} keys are missing "
            f"(such as {missing[:3]}), {len(misshaped)} have other shapes (such as {misshaped[:3]}). "
            "Use a checkpoint that was trained with this config or with its dense twin"
        )


def load_weights(model: nn.Module, path: str, argument: str = "checkpoint", trust: bool | None = None) -> None:
    """Load a checkpoint of this model or of its dense twin; the arguments are those of ``read_checkpoint``."""
    state = weights_of(read_checkpoint(path, argument, trust))
    check_weights(model, state, path, argument)
    load_state_dict(model, state)
