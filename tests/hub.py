"""Real networks of timm and transformers, small, in which no weight is trivially zero or one."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mmsparse  # noqa: F401  serves mmcv's operators

# They look for transformers when they are imported, and some versions of them fail where they find a newer one.
for library in ("mmdet.datasets", "mmdet.models", "mmpretrain.models", "mmseg.models"):
    importlib.import_module(library)
FOLDER = str(Path(__file__).parents[1] / ".hub")
sys.path.append(FOLDER)
ABSENT = "it is not in .hub, where `make hub` puts it"
timm = pytest.importorskip("timm", reason=ABSENT)
transformers = pytest.importorskip("transformers", reason=ABSENT)
safetensors = pytest.importorskip("safetensors.torch", reason=ABSENT)
sys.path.remove(FOLDER)  # processes of later tests import the libraries anew, and must not find it
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

DEPTHS, CHANNELS = [1, 2, 1, 1], [8, 16, 32, 64]
OUT = ["stage1", "stage2", "stage3", "stage4"]


@pytest.fixture(autouse=True)
def in_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is imported late is found while a test runs; for the modules that import it."""
    monkeypatch.syspath_prepend(FOLDER)
    sys.path.append(sys.path.pop(0))  # behind the environment's own


@torch.no_grad()
def shaken(model: nn.Module) -> nn.Module:
    """With random weights of a size that keeps activations near one, in float64, for inference."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1 and "table" not in name and "pos" not in name:
            value.copy_(noise * value[0].numel() ** -0.5)
        elif name.endswith(("bias", "mean", "beta")):
            value.copy_(0.2 * noise)
        else:
            value.copy_(0.5 + noise.abs() / 2)
    return model.double().eval()


def convnext(version: str = "", classes: int = 0, **config) -> nn.Module:
    """``ConvNextModel`` or ``ConvNextV2Model``, with ``classes`` the classifier."""
    kind = f"ConvNext{version}"
    config = getattr(transformers, f"{kind}Config")(
        hidden_sizes=CHANNELS, depths=DEPTHS, num_labels=classes or 2, **config
    )
    return shaken(getattr(transformers, f"{kind}{'ForImageClassification' if classes else 'Model'}")(config))


def dinov3_convnext() -> nn.Module:
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=CHANNELS, depths=DEPTHS)
    return shaken(transformers.DINOv3ConvNextModel(config))


def swin_config(**config) -> "transformers.SwinConfig":
    sizes = dict(embed_dim=8, depths=[2, 2, 2, 1], num_heads=[1, 2, 2, 4], window_size=4, image_size=128)
    return transformers.SwinConfig(**{**sizes, **config})


def swin(classes: int = 0, **config) -> nn.Module:
    kind = transformers.SwinForImageClassification if classes else transformers.SwinModel
    return shaken(kind(swin_config(num_labels=classes or 2, **config)))


VIT = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=2, intermediate_size=512, image_size=64)


def vit(classes: int = 0, pooler: bool = True) -> nn.Module:
    config = transformers.ViTConfig(**VIT, num_labels=classes or 2)
    if classes:
        return shaken(transformers.ViTForImageClassification(config))
    return shaken(transformers.ViTModel(config, add_pooling_layer=pooler))


def dinov2(classes: int = 0, registers: bool = False, **config) -> nn.Module:
    family = f"Dinov2{'WithRegisters' if registers else ''}"
    kind = getattr(transformers, f"{family}{'ForImageClassification' if classes else 'Model'}")
    config = {**VIT, "image_size": 70, "patch_size": 14, "num_labels": classes or 2, **config}
    return shaken(kind(getattr(transformers, f"{family}Config")(**config)))


def upernet(backbone: str, **config) -> nn.Module:
    """``UperNetForSemanticSegmentation`` behind "convnext", "convnextv2", "swin" or "dinov2"."""
    of_backbone = {
        "convnext": lambda: transformers.ConvNextConfig(hidden_sizes=CHANNELS, depths=DEPTHS, out_features=OUT),
        "convnextv2": lambda: transformers.ConvNextV2Config(hidden_sizes=CHANNELS, depths=DEPTHS, out_features=OUT),
        "swin": lambda: swin_config(out_features=OUT),
        "dinov2": lambda: transformers.Dinov2Config(**VIT, out_indices=[0, 1, 2, 3]),
    }[backbone]()
    sizes = dict(hidden_size=12, auxiliary_channels=6, num_labels=5)
    config = transformers.UperNetConfig(backbone_config=of_backbone, **sizes, **config)
    return shaken(transformers.UperNetForSemanticSegmentation(config))


def timm_model(name: str, **arguments) -> nn.Module:
    return shaken(timm.create_model(name, pretrained=False, **arguments))


DINOV2 = dict(embed_dim=128, depth=3, num_heads=2, img_size=70)
TIMM = {
    "convnext": lambda **a: timm_model("convnext_tiny", depths=DEPTHS, dims=CHANNELS, **a),
    "convnextv2": lambda **a: timm_model("convnextv2_tiny", depths=DEPTHS, dims=CHANNELS, **a),
    "convnext of convolutions": lambda **a: timm_model("convnext_atto", depths=DEPTHS, dims=[40, 16, 16, 16], **a),
    "swin": lambda **a: timm_model(
        "swin_tiny_patch4_window7_224",
        **dict(embed_dim=8, depths=(2, 2, 2, 1), num_heads=(1, 2, 2, 4), window_size=4, img_size=128),
        **a,
    ),
    "vit": lambda **a: timm_model("vit_tiny_patch16_224", embed_dim=128, depth=3, num_heads=2, img_size=64, **a),
    "dinov2": lambda **a: timm_model("vit_small_patch14_dinov2", **DINOV2, **a),
    "dinov2 with registers": lambda **a: timm_model("vit_small_patch14_reg4_dinov2", **DINOV2, **a),
}


def states(model: nn.Module, folder: Path) -> list[dict[str, Tensor]]:
    """The weights under the names in memory, and under those in a file, which in transformers 5 are often others."""
    model.save_pretrained(folder)
    return [model.state_dict(), safetensors.load_file(folder / "model.safetensors")]


def loaded(like: nn.Module, state: dict[str, Tensor], folder: Path, **arguments) -> nn.Module:
    """A network of the same class, with the weights of a file of its own; all must be there and fit."""
    like.config.save_pretrained(folder)
    weights = {key: value.contiguous() for key, value in state.items()}
    safetensors.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model, info = type(like).from_pretrained(folder, output_loading_info=True, dtype=torch.float64, **arguments)
    lacking = [key for key in info["missing_keys"] if not key.endswith("relative_position_index")]  # a buffer, once
    assert not lacking and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()
