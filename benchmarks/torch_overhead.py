"""What a call costs on a tiny tensor, beside a registered operator that does nothing: python benchmarks/torch_overhead.py

Each is timed in turn, by the processor's time of this thread, and the best of many rounds counts. Where gradients are on, the trivial
operator has a registered derivative as well."""

import argparse
import time
from collections.abc import Callable

import torch

import sgs.torch
from sgs import _torch_ops

_LIBRARY = torch.library.Library("sgs_overhead", "DEF")
_LIBRARY.define("trivial(Tensor x, Tensor w) -> Tensor")
_LIBRARY.impl("trivial", lambda x, w: torch.empty_like(x), "CPU")
torch.library.register_fake("sgs_overhead::trivial", lambda x, w: torch.empty_like(x), lib=_LIBRARY)
torch.library.register_autograd(
    "sgs_overhead::trivial",
    lambda ctx, g: (g, None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    lib=_LIBRARY,
)
trivial = torch.ops.sgs_overhead.trivial.default


def microseconds(calls: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, float]:
    """The best mean of each call, taken in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.thread_time()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], (time.thread_time() - start) / repeats * 1e6)
    return best


def tiny_calls(grad: bool) -> dict[str, Callable[[], object]]:
    x = torch.randn(1, 2, 4, 4, requires_grad=grad)
    w = torch.rand(1, 1, 4, 3)
    guide = torch.randn(1, 2, 4, 4)
    return {
        "trivial operator": lambda: trivial(x, w),
        "operator sgs::scan": lambda: _torch_ops.scan.overload(x, w, None, -1, False, 0),
        "scan": lambda: sgs.torch.scan(x, w),
        "line_filter": lambda: sgs.torch.line_filter(x, w),
        "tree_aggregate": lambda: sgs.torch.tree_aggregate(x, w),
        "edge_weights": lambda: sgs.torch.edge_weights(x, -1),
        "semi_global_filter": lambda: sgs.torch.semi_global_filter(x, guide),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for grad in (False, True):
        best = microseconds(tiny_calls(grad), options.rounds, options.repeats)
        print(f"with{'' if grad else 'out'} gradient")
        for name, value in best.items():
            print(f"  {name:20s} {value:6.2f} us  {value / best['trivial operator']:5.2f} x")


if __name__ == "__main__":
    main()
