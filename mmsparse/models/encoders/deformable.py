"""The deformable encoder of DETR-like networks: selected tokens are its queries, keys and values stay all."""

from collections.abc import Mapping
from typing import Any

from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.models.layers.transformer.deformable_detr_layers import DeformableDetrTransformerEncoderLayer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.ops import Groups
from mmsparse.registry import check_keys
from mmsparse.sparsity import FastPath, Scorer, Selection, router_keys

from .router import EncoderRouter


class RoutedLayer(DeformableDetrTransformerEncoderLayer):
    """A layer that refines only what was selected; its attention looks at all tokens."""

    def __init__(self, *args: Any, number: int, router: EncoderRouter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.number = number
        self._router = (router,)  # no child: what is new lives under the encoder's `router` alone

    def forward(self, query: Tensor, selection: Selection | None = None, **given: Any) -> Tensor:
        if selection is None:
            return super().forward(query=query, **given)
        everything, reference, pos = query, given.pop("reference_points"), given.pop("query_pos")
        batch, tokens, _ = query.shape

        def slow(rows: Tensor, idx: Tensor) -> Tensor:
            if len(idx) == 0:
                return rows
            pictures = _pictures(idx, selection, tokens)
            where = idx.view(batch, -1) if pictures is None else idx[pictures.rows]
            x = self.self_attn(
                everything.flatten(0, 1)[where],
                value=everything,
                query_pos=pos.flatten(0, 1)[where],
                reference_points=reference.flatten(0, 1)[where],
                **given,
            )
            x = self.norms[1](self.ffn(self.norms[0](x))).flatten(0, 1)
            return x if pictures is None else x.index_select(0, pictures.places)

        paths = self._router[0].paths(self.number, selection)
        return paths.take(query.flatten(0, 1), slow).view_as(query)


def _pictures(idx: Tensor, selection: Selection, tokens: int) -> Groups | None:
    """Which rows are of which picture; None: each so many in turn."""
    if idx is selection.keep_idx and selection.common_count is not None:
        return None
    return Groups.of(idx // tokens, total=len(selection.keep_mask))


class RoutedEncoder:
    """Mixin in front of a stock encoder."""

    def __init__(
        self, *args: Any, sparsity: Mapping[str, Any], finest_last: bool = False, owner: str, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        where = f"{owner}: argument `sparsity`"
        if not isinstance(sparsity, Mapping):
            raise TypeError(f"{owner}: expected argument `sparsity` to be a dict or None, but got {sparsity!r}")
        if self.num_cp > 0:
            raise ValueError(
                f"{owner}: argument `num_cp`={self.num_cp} of its encoder is for layers that are not routed. Leave it "
                "out, or remove `sparsity`"
            )
        check_keys(where, sparsity, router_keys(EncoderRouter))
        attention = self.layers[0].self_attn
        with mistakes_in(where):
            router = EncoderRouter(self.embed_dims, attention.num_levels, self.num_layers, finest_last, **sparsity)
        self.layers = ModuleList(
            RoutedLayer(**self.layer_cfg, number=number, router=router) for number in range(self.num_layers)
        )
        self.router = router

    def forward(self, query: Tensor, *, spatial_shapes: Tensor, **kwargs: Any) -> Tensor:
        sizes = [(high, wide) for high, wide in spatial_shapes.tolist()]
        selection = self.router.decide(query, sizes)
        return super().forward(query=query, spatial_shapes=spatial_shapes, selection=selection, **kwargs)

    def export_objection(self, padded: bool) -> str:
        return (
            "its deformable attention reads the sizes of the levels from a tensor, which no exported network can. Use "
            "it in PyTorch"
        )

    def begin(self) -> None:
        """Initial weights of what is new, which the stock detectors fill like any other matrix."""
        for module in self.router.modules():
            if isinstance(module, Scorer | FastPath) and type(module).init_weights is not BaseModule.init_weights:
                module.init_weights()


class DeformableEncoder(RoutedEncoder, DeformableDetrTransformerEncoder):
    """That of detectors."""
