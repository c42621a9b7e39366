"""Two accelerators that are none: tensors that say they live elsewhere, and compute on the CPU.

As on real ones, an operation refuses tensors of two devices, and as on Apple's there is no float64. What this cannot
show is what a driver does: speed, rounding, and operations that a real device lacks.
"""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FIRST, SECOND = torch.device("mps:0"), torch.device("mps:1")
# What takes tensors of the CPU beside those of a device
MIXED = ("aten.index.", "aten.index_put", "aten.copy_", "aten._index_put_impl_", "aten._unsafe_index")


class Elsewhere(torch.Tensor):
    "A tensor of a device."

    @staticmethod
    def __new__(cls, inner, device):
        kept = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        # To torch's own code it is a tensor without a device, since that asks a driver for any other
        return torch.Tensor._make_wrapper_subclass(cls, inner.size(), device="meta", **kept)

    def __init__(self, inner, device):
        self.inner, self.place = inner, device

    @property
    def device(self):
        "Where it says that it lives."
        return self.place

    def to(self, *args, **kwargs):
        "Gradients go back to where a tensor came from, which torch's own code does not know."
        place, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        out = self if dtype is None else super().to(dtype)
        return out if place is None or place == self.device else _Move.apply(out, place)

    def cpu(self):
        "On the CPU."
        return self.to("cpu")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, place):
        ctx.came_from = x.device
        return _wrapped(x.inner.clone(), place)

    @staticmethod
    def backward(ctx, gradient):
        inner = gradient.inner if isinstance(gradient, Elsewhere) else gradient
        return _wrapped(inner.clone(), ctx.came_from), None


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _wrapped(x, device):
    if not isinstance(x, torch.Tensor) or device.type == "cpu":
        return x
    if x.dtype == torch.float64:
        raise TypeError(f"{device} has no float64")
    return Elsewhere(x, device)


def _run(func, args, kwargs):
    flat = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = [x for x in flat if isinstance(x, Elsewhere)]
    devices = {x.device for x in away}
    told = kwargs.pop("device", None)
    told = None if told is None else torch.device(told)
    if told is not None:
        kwargs["device"] = torch.device("cpu")
    if told is not None and told.type == "meta":  # torch's own code asks for a tensor like the others
        told = None
    name = str(func)
    if told is None and not name.startswith(MIXED):
        here = [x for x in flat if not isinstance(x, Elsewhere) and x.dim()]
        if len(devices) > 1 or (devices and here):
            raise RuntimeError(f"{name}: tensors of {sorted(map(str, devices))}" + " and the CPU" * bool(here))
    target = told or (away[0].device if away else torch.device("cpu"))
    own = {id(x.inner): x for x in away}
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    return tree_map(lambda x: own[id(x)] if id(x) in own else _wrapped(x, target), out)


def _inner(x):
    return x.inner if isinstance(x, Elsewhere) else x


@contextmanager
def devices():
    "While it lasts, tensors can be made on the two devices and moved between them."
    made = torch.tensor

    def tensor(data, *, device=None, **more):
        "`torch.tensor` asks the driver of a device without a look at modes."
        return made(data, **more) if device is None else made(data, **more).to(device)

    with _Mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        yield


def split(model, second):
    "Put modules on the second device, the rest on the first; inputs follow, and logits come back, as accelerate does."

    def place_of(name):
        return SECOND if any(f"{name}.".startswith(f"{part}.") for part in second) else FIRST

    made = {}  # tied weights stay tied
    for module_name, module in model.named_modules():
        for kept in (module._parameters, module._buffers):
            for name, p in kept.items():
                if p is not None and id(p) not in made:
                    moved = Elsewhere(p.detach().clone(), place_of(module_name))
                    made[id(p)] = nn.Parameter(moved, p.requires_grad) if isinstance(p, nn.Parameter) else moved, p
                kept[name] = p if p is None else made[id(p)][0]
    for name, module in model.named_modules():
        if name in second or not list(module.children()):
            own = next(module.parameters(), None)
            module.forward = _following(module.forward, place_of(name) if own is None else own.device)
            module._hf_hook = True  # so accelerate marks a forward that only moves inputs
    model.forward = _following(model.forward, FIRST, back=FIRST)
    model.hf_device_map = {"": 0}
    return model


def _following(forward, place, back=None):
    def move(x):
        return x.to(place) if isinstance(x, torch.Tensor) else x

    def run(*args, **kwargs):
        out = forward(*tree_map(move, args), **tree_map(move, kwargs))
        return tree_map(lambda x: x.to(back) if isinstance(x, torch.Tensor) else x, out) if back else out

    return run
