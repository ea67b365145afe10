"""What makes an operator of a function of tensors: torch's dispatcher picks the kernel, exporters see plain PyTorch."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import or_
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

Run = Callable[..., Tensor]

OPERATORS: dict[str, "Operator"] = {}  # by name
EXPORT = "export"  # the device of what exporters see, if that is not the plain decomposition
# Before 2.7 torch says that it compiles where it exports, too; what tells the two apart is dynamo.
_exports = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
_LIBRARY = torch.library.Library("mmsparse", "FRAGMENT")


def _schema(run: Run, name: str | None = None) -> str:
    """The signature as torch writes it, which before 2.7 knows the sequences of ``typing`` alone."""

    def told() -> None:
        """Has the signature, and is never called."""

    signature = inspect.signature(run, eval_str=True)
    given = [each.replace(annotation=_of_typing(each.annotation)) for each in signature.parameters.values()]
    told.__signature__ = signature.replace(parameters=given)
    return torch.library.infer_schema(told, mutates_args=(), op_name=name)


def _of_typing(annotation: Any) -> Any:
    inner = tuple(map(_of_typing, typing.get_args(annotation)))
    if typing.get_origin(annotation) is Sequence:
        return typing.Sequence[inner]
    return functools.reduce(or_, inner) if isinstance(annotation, types.UnionType) else annotation


@dataclass(frozen=True)
class Kernel:
    """One way to run an operator.

    Args:
        name: Of the function that runs it, unless another is given.
        device: Its device; None: all.
        run: Takes the operator's arguments and changes none. Its result is contiguous and shares no memory with them.
        suits: Takes them by name: whether this kernel can run, and pays. None: always.
    """

    name: str
    device: str | None
    run: Run
    suits: Callable[..., bool] | None


class Operator:
    """``torch.ops.mmsparse.NAME``, with its shapes, gradients and arithmetic.

    Tracers and exporters see the plain decomposition, compilers one operator, counters the same arithmetic by either.
    torch's own ``custom_op`` would do the same, at a little more a call for checks that law 9 makes of all kernels.

    Args:
        name: In ``torch.ops.mmsparse``.
        plain: What it is, in plain PyTorch: a fully annotated function whose signature becomes the schema. No shape in
            it depends on data. It runs where no kernel suits.
        flops: Twice the multiply-accumulates, from the arguments by name, shapes in place of tensors.
        fake: From the arguments by name, what comes out without its values; by default the decomposition says it, which
            compilers may find long.
        backward: From the gradient, which arguments need theirs, and the arguments, to the gradient of each. By default
            the decomposition is run once more, so that nothing but the arguments is kept.
    """

    def __init__(
        self,
        name: str,
        plain: Run,
        flops: Callable[..., int],
        fake: Run | None = None,
        backward: Callable[..., tuple[Any, ...]] | None = None,
    ) -> None:
        self.name = name
        self.plain = plain
        self.kernels = [Kernel("plain", None, plain, None)]
        self._names = tuple(inspect.signature(plain).parameters)
        self._devices: set[str] = set()
        self._backward = backward or self._recompute
        _LIBRARY.define(_schema(plain, name))
        _LIBRARY.impl(name, lambda *args: self._choose(None, args)(*args), "CompositeExplicitAutograd")
        full = f"mmsparse::{name}"
        torch.library.register_fake(
            full, plain if fake is None else lambda *args: fake(**self._named(args)), lib=_LIBRARY
        )
        torch.library.register_autograd(full, self._differentiate, setup_context=self._keep, lib=_LIBRARY)
        packet = getattr(torch.ops.mmsparse, name)
        register_flop_formula(packet)(lambda *args, out_shape: flops(**self._named(args)))
        self._dispatch = packet.default
        OPERATORS[name] = self

    def __call__(self, *args: Any) -> Tensor:
        if exporting():
            return self._choose(EXPORT, args)(*args)
        return self.plain(*args) if self._is_plain(args) else self._dispatch(*args)

    def _is_plain(self, args: tuple[Any, ...]) -> bool:
        """Whether the decomposition is all that would run; the way through the dispatcher costs small maps a tenth."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return self._choose(args[0].device.type, args) is self.plain

    def kernel(
        self, device: str, suits: Callable[..., bool] | None = None, name: str | None = None
    ) -> Callable[[Run], Run]:
        """Register a kernel for a device, such as "cpu" or "cuda": among those that suit, the last one runs.

        That of the device ``EXPORT`` is in plain PyTorch, too, and none of its shapes depends on data.
        """

        def register(run: Run) -> Run:
            if device not in (*self._devices, EXPORT):
                self._devices.add(device)
                _LIBRARY.impl(self.name, lambda *args: self._choose(device, args)(*args), device.upper())
            self.kernels.append(Kernel(name or run.__name__, device, run, suits))
            return run

        return register

    def _choose(self, device: str | None, args: tuple[Any, ...]) -> Run:
        for kernel in reversed(self.kernels):
            if kernel.device in (device, None) and (kernel.suits is None or kernel.suits(**self._named(args))):
                return kernel.run
        raise AssertionError("the plain decomposition suits always")

    def _named(self, args: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip(self._names, args, strict=True))

    @staticmethod
    def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(arg if isinstance(arg, Tensor) else None for arg in inputs))
        ctx.others = [None if isinstance(arg, Tensor) else arg for arg in inputs]

    def _differentiate(self, ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        args = [other if saved is None else saved for saved, other in zip(ctx.saved_tensors, ctx.others, strict=True)]
        return self._backward(grad, ctx.needs_input_grad, *args)

    def _recompute(self, grad: Tensor, needed: tuple[bool, ...], *args: Any) -> tuple[Any, ...]:
        args = [arg.detach().requires_grad_() if need else arg for arg, need in zip(args, needed, strict=True)]
        with torch.enable_grad():
            out = self.plain(*args)
        wanted = [arg for arg, need in zip(args, needed, strict=True) if need]
        grads = iter(torch.autograd.grad(out, wanted, grad, allow_unused=True))
        return tuple(next(grads) if need else None for need in needed)


def opaque(fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What compilers leave alone: a function of which they would make many small kernels, each compiled for a second.

    Where gradients or autocast are on, they look inside; exporters always do.

    Args:
        fake: From the same arguments, what comes out without its values.
    """

    def wrap(run: Callable[..., Any]) -> Callable[..., Any]:
        operator = torch.library.custom_op(f"mmsparse::{run.__name__}", run, mutates_args=(), schema=_schema(run))
        operator.register_fake(fake)

        @functools.wraps(run)
        def call(*args: Any) -> Any:
            if not torch.compiler.is_compiling() or exporting() or torch.is_grad_enabled() or autocasts(args[0]):
                return run(*args)
            return operator(*args)

        return call

    return wrap


def recomputed(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A pure function that keeps for its gradients what it is given, and computes all else once more.

    For what is quick, beside what its steps would keep until the backward pass.
    """

    @functools.wraps(run)
    def call(*args: Any) -> Tensor:
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or exporting():
            return run(*args)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)

    return call


def exporting() -> bool:
    """Whether a tracer or an exporter looks. (Where it compiles, torch says that it exports.)"""
    exports = _exports() and not torch.compiler.is_dynamo_compiling()
    return exports or torch.jit.is_tracing()


def autocasts(tensor: Tensor) -> bool:
    """Whether autocast is on for its device; where there are shapes alone, torch knows of none."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def cast_for_autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """In autocast's precision, if it is on for the device of the first."""
    if not autocasts(tensors[0]):
        return tensors
    dtype = torch.get_autocast_dtype(tensors[0].device.type)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)
