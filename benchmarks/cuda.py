"""Times on a CUDA card beside a copy of the same values, as a table: `python -m benchmarks.cuda`.

Medians of CUDA events over 120 ms by Triton's `do_bench`, which clears the L2 cache before each call; triton comes with torch's
CUDA builds. Numbers depend on the card: compare ratios within one run.
"""

from collections.abc import Callable
from typing import Any

import torch
from triton.testing import do_bench  # type: ignore[import-not-found,unused-ignore]

import sgs
from benchmarks.peers import criss_cross, non_local

Tensor = torch.Tensor
CASES: tuple[tuple[tuple[int, ...], torch.dtype, str, bool], ...] = (
    # shape, dtype, normalization, whether the guide's derivative is wanted too
    ((1, 512, 97, 97), torch.float32, "cross", False),
    ((8, 512, 97, 97), torch.float32, "cross", False),
    ((8, 512, 97, 97), torch.float32, "cross", True),
    ((8, 512, 97, 97), torch.float32, "line", False),
    ((8, 512, 97, 97), torch.float16, "cross", False),
    ((8, 512, 97, 97), torch.float64, "cross", False),
    ((8, 256, 128, 128), torch.float32, "cross", False),
    ((8, 256, 256, 256), torch.float32, "cross", False),
    ((1, 72, 500, 741), torch.float32, "cross", False),
    ((8, 64, 1024, 1024), torch.float32, "cross", False),
    ((8, 64, 1024, 1024), torch.float32, "cross", True),
    ((8, 64, 1024, 1024), torch.float32, "line", False),
    ((1, 3, 2048, 2048), torch.float32, "cross", False),
    ((1, 1, 8192, 8192), torch.float32, "cross", False),
    ((1, 64, 1, 1_000_000), torch.float32, "cross", False),
)


def microseconds(call: Callable[[], Any]) -> float:
    """Median time of a call on the card."""
    return 1e3 * float(do_bench(call, warmup=20, rep=120, return_mode="median"))


def case(shape: tuple[int, ...], dtype: torch.dtype, normalization: str, guide_too: bool) -> str:
    """A row of the table: a copy, forward, and backward by x or by x and the guide, which has 8 channels."""
    x = torch.randn(shape, device="cuda", dtype=dtype)
    guide = torch.randn((shape[0], 8, *shape[2:]), device="cuda", dtype=dtype)
    y_bar = torch.randn_like(x)
    copy = microseconds(lambda: y_bar.copy_(x))

    def forward() -> Tensor:
        return sgs.torch.semi_global_filter(x, guide, normalization=normalization)

    with torch.no_grad():
        ours = microseconds(forward)
    inputs = (x, guide) if guide_too else (x,)
    for t in inputs:
        t.requires_grad_()
    y = forward()
    backward = microseconds(lambda: torch.autograd.grad(y, inputs, y_bar, retain_graph=True))
    name = f"{'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}, {normalization}"
    by = "x, guide" if guide_too else "x"
    return (
        f"| {name} | {copy:,.0f} | {ours:,.0f} | {ours / copy:.1f} | {by} | {backward:,.0f} | {backward / copy:.1f} |"
    )


def attention(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> str:
    """A row of the second table: ours, criss-cross attention and Non-local attention with the guide as query and key."""
    x = torch.randn(shape, device="cuda", dtype=dtype)
    guide = torch.randn((shape[0], channels, *shape[2:]), device="cuda", dtype=dtype)
    with torch.no_grad():
        ours, criss, non = (
            microseconds(call)
            for call in (
                lambda: sgs.torch.semi_global_filter(x, guide),
                lambda: criss_cross(guide, guide, x),
                lambda: non_local(guide, guide, x),
            )
        )
    name = f"{'x'.join(map(str, shape))}, {str(dtype).removeprefix('torch.')}"
    return f"| {name} | {ours:,.0f} | {criss:,.0f} | {non:,.0f} |"


def main() -> None:
    """Print both tables."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| shape, type, normalization | copy, us | forward, us | of a copy | by | backward, us | of a copy |")
    print("|---|--:|--:|--:|---|--:|--:|")
    for row in CASES:
        print(case(*row), flush=True)
    print("\n| shape, guide of 64 channels | sgs, us | criss-cross, us | Non-local, us |\n|---|--:|--:|--:|")
    for shape in ((1, 512, 97, 97), (8, 512, 97, 97)):
        for dtype in (torch.float32, torch.float16):
            print(attention(shape, 64, dtype), flush=True)


if __name__ == "__main__":
    main()
