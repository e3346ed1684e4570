"""Modules that are built to hold the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genflow.errors import GenflowError
from genflow.schema import brief
from genflow.storage.populations import finite_float

M = TypeVar("M", bound=nn.Module)
#: what a network that is built from an impossible card, or given other tensors, may raise
_UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Undrawn(TorchFunctionMode):
    """Meanwhile parameters keep the memory that they were made of: a file's tensors replace them.

    Drawing them takes time, and on the meta device the seconds that importing torch's compiler takes.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor")
        module = getattr(func, "__module__", None)  # methods of tensors have none
        fills = module == nn.init.__name__ or func in (Tensor.normal_, Tensor.uniform_)
        return first if fills and isinstance(first, nn.Parameter) else func(*args, **kwargs)


def build_with_tensors(build: Callable[[], M], tensors: Mapping[str, Tensor], path: Path) -> M:
    """The module that a card describes with the tensors of a file.

    Raises:
        GenflowError: the card is impossible, or the tensors are of other names, shapes or kinds, or not
            finite.
    """
    try:
        # on the meta device first: a wrong card must not make us allocate more than the file holds
        with torch.device("meta"), _Undrawn():
            empty = build()
        own = empty.state_dict()
        unnamed = dict(empty.named_parameters()).keys() - own.keys()
        if unnamed:
            raise ValueError(f"parameter {brief(min(unnamed))!r} is in no state_dict()")
        shapes, found = ({name: tensor.shape for name, tensor in each.items()} for each in (own, tensors))
        if shapes != found:
            odd = min(name for name in {*shapes, *found} if shapes.get(name) != found.get(name))
            raise ValueError(f"tensor {brief(odd)!r} is missing, extra or of another shape")
        floats = {
            n: finite_float(t, f"{path}: tensor {n!r}") if own[n].is_floating_point() else t
            for n, t in tensors.items()
        }
        with _Undrawn():
            module = build().float()  # whatever torch's default is
        module.load_state_dict(floats)
    except _UNFIT as error:
        raise GenflowError(
            f"{path} does not fit its card: {type(error).__name__}: {brief(str(error), 400)}"
        ) from error
    return module
