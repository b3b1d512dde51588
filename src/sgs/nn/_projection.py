"""What the blocks share: the 1x1 convolutions, and positions to look at."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def reduced_channels(channels: int, reduction: int, heads: int) -> int:
    """Check the arguments, and that heads divide both numbers of channels, and return `channels // reduction`."""
    for name, value in (("channels", channels), ("reduction", reduction), ("heads", heads)):
        if value < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {value}")
    reduced = channels // reduction
    if reduced < 1:
        raise ValueError(f"reduction: expected at most the number of channels, {channels}, got {reduction}")
    if channels % heads or reduced % heads:
        raise ValueError(
            f"heads: expected a divisor of channels, {channels}, and of channels // reduction, {reduced}, got {heads}"
        )
    return reduced


def projection(inputs: int, outputs: int, bias: bool, factory: dict[str, Any]) -> nn.Conv2d:
    """A 1x1 convolution."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, bias=bias, **factory)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """The view (..., heads, channels of a head, H, W) of (..., C, H, W)."""
    return torch.unflatten(x, -3, (heads, x.shape[-3] // heads))


def one_hot(like: Tensor, position: Sequence[int]) -> Tensor:
    """Zeros like `like`, (..., H, W), but 1 in `position` of every plane."""
    size = tuple(like.shape[-2:])
    if len(position) != 2:
        raise ValueError(f"position: expected (row, column), got {len(position)} entries")
    if not all(-n <= p < n for p, n in zip(position, size, strict=True)):
        raise IndexError(f"position: expected a position in a map of {size}, got {tuple(position)}")
    row = like.new_zeros(like.shape)
    row[..., position[0], position[1]] = 1
    return row
