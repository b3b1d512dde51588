"""Print the paper's Tables 3 and 4, FLOPs and parameters, beside what PyTorch counts for the modules of `sgs.nn`.

Run it: python paper_tables.py   (no weights are allocated: everything happens on the meta device, in a second)

512 channels on 97 x 97 positions are what a 769 x 769 image leaves at stride 8. `docs/paper_tables.md` explains every
difference. mIoU is the paper's: it takes Cityscapes and weeks to measure.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sgs.nn import CrissCrossAttention, HierarchicalSemiGlobalBlock, NonLocalBlock, SemiGlobalBlock

CHANNELS = 512
SIZE = 97

# Name, module, and what the paper says: GFLOPs, millions of parameters, mIoU.
Row = tuple[str, Callable[[], nn.Module], float, float, float]
TABLE_3: list[Row] = [
    ("Non-local", lambda: NonLocalBlock(CHANNELS, device="meta"), 108, 0.131, 79.1),
    ("  with bottleneck", lambda: NonLocalBlock(CHANNELS, bottleneck=True, device="meta"), 108, 0.131, 79.1),
    ("CCNet", lambda: CrissCrossAttention(CHANNELS, device="meta"), 16.5, 0.328, 79.8),
    ("SGSNet", lambda: HierarchicalSemiGlobalBlock(CHANNELS, device="meta"), 11.4, 0.295, 80.9),
]
TABLE_4: list[Row] = [
    ("H=1", lambda: SemiGlobalBlock(CHANNELS, device="meta"), 5.70, 0.295, 79.5),
    (
        "H=2 (no alpha, beta)",
        lambda: HierarchicalSemiGlobalBlock(CHANNELS, learn_scale=False, device="meta"),
        11.4,
        0.295,
        80.2,
    ),
    ("H=2", lambda: HierarchicalSemiGlobalBlock(CHANNELS, device="meta"), 11.4, 0.295, 80.9),
]


def parameters(module: nn.Module) -> int:
    """Number of learned values."""
    return sum(p.numel() for p in module.parameters())


def flops(module: nn.Module, channels: int = CHANNELS, size: int = SIZE) -> dict[str, int]:
    """FLOPs of one forward pass by operation, a multiply-add counted as two; "total" is their sum."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.empty(1, channels, size, size, device="meta"))
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    return counts | {"total": counter.get_total_flops()}


def show(title: str, rows: list[Row]) -> None:
    """Print one table."""
    print(f"{title:21} {'GFLOPs':>16} {'Params (M)':>16} {'mIoU':>6}")
    print(f"{'':21} {'paper':>7} {'counted':>8} {'paper':>7} {'counted':>8} {'paper':>6}")
    for name, make, paper_flops, paper_parameters, miou in rows:
        module = make()
        counted_flops, counted_parameters = flops(module)["total"] / 1e9, parameters(module) / 1e6
        print(f"{name:21} {paper_flops:7.4g} {counted_flops:8.3f}", end=" ")
        print(f"{paper_parameters:7.3f} {counted_parameters:8.3f} {miou:6.1f}")
    print()


def main() -> None:
    """Print both tables, and where the FLOPs of one semi-global block go."""
    show("Table 3", TABLE_3)
    show("Table 4", TABLE_4)
    print("One semi-global block, by operation:")
    for op, count in flops(SemiGlobalBlock(CHANNELS, device="meta")).items():
        print(f"  {op:30} {count / 1e9:7.3f} GFLOPs")


if __name__ == "__main__":
    main()
