"""What each process of the distributed test runs: a module of its own, which spawned processes can import."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from sgs.nn import HierarchicalSemiGlobalBlock


class Net(nn.Module):
    """A small network around a block."""

    def __init__(self, block: Any, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.block = block
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.block(self.stem(x).relu()))


def distributed_worker(rank: int, folder: Path, images: Any, labels: Any) -> None:
    """One of two processes: half the batch, gradients averaged by DistributedDataParallel, and saved."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = DistributedDataParallel(Net(HierarchicalSemiGlobalBlock(16)).double())
    cross_entropy(net(images[rank::2]), labels[rank::2]).backward()
    torch.save({name: p.grad for name, p in net.module.named_parameters()}, folder / f"gradients{rank}.pt")
    (folder / f"done{rank}").touch()
    # Ended from outside: a gloo group that is freed here joins a thread that may be waiting for Python's lock.
    time.sleep(600)
