"""The matrix multiplications of a computation, alone: what no other way of running the same ones can beat."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Products(TorchDispatchMode):
    "Writes down the matrix multiplications that happen in this thread, attention left out."

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.found: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.stand_ins: dict[tuple, torch.Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm"):
            left, right = args[-2:]
            self.found.append((self.kept(left), self.kept(right)))
        return func(*args, **kwargs or {})

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        "A weight itself; of anything else one tensor of each form, so that nothing is held in memory for its values."
        if tensor.untyped_storage().data_ptr() in self.weights:
            return tensor.detach()
        form = tuple(tensor.shape), tensor.stride(), tensor.dtype
        if form not in self.stand_ins:
            self.stand_ins[form] = torch.empty_strided(*form[:2], dtype=form[2]).normal_()
        return self.stand_ins[form]

    @property
    def work(self) -> int:
        "Floating-point operations."
        return sum(2 * left.shape[0] * left.shape[1] * right.shape[1] for left, right in self.found)

    def again(self, streams: int = 1) -> None:
        "The same multiplications with nothing between them; with several streams so often, each in one thread."
        if streams == 1:
            self._run()
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with ThreadPoolExecutor(streams) as pool:
            list(pool.map(lambda _: self._run(), range(streams)))
        torch.set_num_threads(threads)

    def _run(self) -> None:
        out = torch.empty(max(a.shape[0] * b.shape[1] for a, b in self.found), dtype=self.found[0][1].dtype)
        with torch.no_grad():
            for a, b in self.found:
                torch.mm(a, b, out=out[: a.shape[0] * b.shape[1]].view(a.shape[0], b.shape[1]))
