"""What a gradient costs by counting: multiply-accumulates, and bytes of tensors that live at once.

Counted on the operators that PyTorch runs, one after the other; a runtime that fuses or reuses
needs less memory, one that lays out weights again needs more.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary


def count(call: Callable[[], object]) -> tuple[int, int]:
    """Of one call: multiply-accumulates of convolutions and matrix products, the way back included;
    and the most bytes that the tensors which it makes take at one moment."""
    counter = _Counter()
    with counter:
        call()
    return counter.operations // 2, counter.peak


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators return until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # storages that were there before: weights, images
        self.given: MutableMapping[UntypedStorage, bool] = WeakIdKeyDictionary()
        # others, and their bytes
        self.live: MutableMapping[UntypedStorage, int] = WeakIdKeyDictionary()
        self.peak = 0
        self.operations = 0  # a multiply-accumulate is two

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            if storage not in self.live:
                self.given[storage] = True
        out = func(*args, **kwargs)
        for storage in _storages(out):
            if storage not in self.given:
                self.live[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))
        if rule := flop_registry.get(func._overloadpacket):
            self.operations += rule(*args, **kwargs, out_val=out)
        return out


def _storages(values: object) -> list[UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
