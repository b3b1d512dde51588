"""Non-local attention: Wang et al., "Non-local Neural Networks", CVPR 2018, with the embedded Gaussian."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from sgs.nn._projection import one_hot, projection, reduced_channels, split_heads


class NonLocalBlock(nn.Module):
    """Attention of every position to every other: z_u = gamma sum_v softmax_v(theta(x_u) . phi(x_v)) g(x_v) + x_u.

    theta and phi are 1x1 convolutions to `channels // reduction` (Eq. 4 and 6 of the paper). There are two ways to
    treat the values in use, and this offers both:

    - by default g keeps the channels and gamma is a number that starts at 0. This is what criss-cross attention was
      compared with, and the counterpart of its values and of psi in the semi-global block.
    - `bottleneck=True` is the layout of the paper: g reduces the channels as theta and phi do, and in the place of
      gamma
      a 1x1 convolution brings them back, 0 at the start.

    Plain PyTorch, on any device. N^2 (C + C / reduction) multiply-adds for N = H W positions, or 2 N^2 C / reduction
    with the bottleneck; where no fused attention is available, N^2 weights in memory.

    Parameters
    ----------
    channels : int
        C, channels of input and output.
    reduction : int, default 8
        theta and phi have `channels // reduction` channels. The paper has 2.
    heads : int, default 1
        Number of equal groups of channels with an attention of their own; divides C and C // reduction. The paper has
        1.
    bottleneck : bool, default False
        Reduce the values as well.
    bias : bool, default False
        Give the convolutions a bias.
    device, dtype : optional
        Of the parameters, as in `torch.nn`.

    Attributes
    ----------
    theta, phi, g : torch.nn.Conv2d
    out : torch.nn.Conv2d or None
        The way back from the bottleneck.
    gamma : torch.nn.Parameter or None
        Shape (1,), where there is no bottleneck.

    Raises
    ------
    ValueError
        Numbers that are out of range or do not divide.
    """

    gamma: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        heads: int = 1,
        bottleneck: bool = False,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reduced = reduced_channels(channels, reduction, heads)
        self.channels, self.reduction, self.heads, self.bottleneck = channels, reduction, heads, bottleneck
        factory = {"device": device, "dtype": dtype}
        self.theta = projection(channels, reduced, bias, factory)
        self.phi = projection(channels, reduced, bias, factory)
        self.g = projection(channels, reduced if bottleneck else channels, bias, factory)
        self.out = projection(reduced, channels, bias, factory) if bottleneck else None
        self.register_parameter("gamma", None if bottleneck else nn.Parameter(torch.zeros(1, **factory)))
        self._start_as_identity()

    def _start_as_identity(self) -> None:
        if self.out is not None:
            nn.init.zeros_(self.out.weight)
            if self.out.bias is not None:
                nn.init.zeros_(self.out.bias)
        if self.gamma is not None:
            nn.init.zeros_(self.gamma)

    def reset_parameters(self) -> None:
        """Draw theta, phi and g anew, and set what follows them to 0."""
        for conv in (self.theta, self.phi, self.g):
            conv.reset_parameters()
        self._start_as_identity()

    def _split(self, x: Tensor) -> Tensor:
        """(..., heads, positions, channels of a head)."""
        return split_heads(x, self.heads).flatten(-2).transpose(-1, -2)

    def forward(self, x: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor
            Features (..., C, H, W) with at most one batch axis, of the parameters' dtype.

        Returns
        -------
        Tensor, the shape and dtype of x.
        """
        query, key, value = self._split(self.theta(x)), self._split(self.phi(x)), self._split(self.g(x))
        # The embedded Gaussian does not divide by the root of the number of channels.
        y = scaled_dot_product_attention(query, key, value, scale=1.0)
        y = torch.unflatten(y.transpose(-1, -2).flatten(-3, -2), -1, x.shape[-2:])
        if self.gamma is not None:
            y = y * self.gamma
        if self.out is not None:
            y = self.out(y)
        return y + x

    def attention_map(self, x: Tensor, position: Sequence[int]) -> Tensor:
        """How much the values in every position count in the output at `position`; the sum is 1.

        Parameters
        ----------
        x : Tensor
            Features (..., C, H, W) with at most one batch axis.
        position : (int, int)
            Row and column; negative numbers count from the end.

        Returns
        -------
        Tensor (..., H, W), or (..., heads, H, W) with several heads.

        Raises
        ------
        IndexError
            `position` is outside the map.
        ValueError
            `position` is not a pair.
        """
        there = one_hot(x[..., :1, :, :], position)
        query = (self.theta(x) * there).sum((-2, -1), keepdim=True)
        scores = split_heads(query * self.phi(x), self.heads).sum(-3)
        weights = torch.unflatten(scores.flatten(-2).softmax(-1), -1, x.shape[-2:])
        return weights.squeeze(-3) if self.heads == 1 else weights

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        text = f"{self.channels}, reduction={self.reduction}, heads={self.heads}, bottleneck={self.bottleneck}"
        return f"{text}, bias={self.g.bias is not None}"
