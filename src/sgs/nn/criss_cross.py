"""Criss-cross attention: Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", ICCV 2019."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sgs.nn._projection import one_hot, projection, reduced_channels, split_heads


class CrissCrossAttention(nn.Module):
    """Attention of every position to its row and column: H'_u = gamma sum_i A_iu V_i + H_u, several times over.

    A is the softmax over the H + W - 1 positions of u's row and column of the products of query and key, two 1x1
    convolutions to `channels // reduction`; a third gives the values (section 3.2 of the paper). gamma starts at 0.
    The `recurrence` shares all parameters (section 3.3); twice suffices to reach the whole map. Plain PyTorch, on any
    device. N (H + W) (C + C / reduction) multiply-adds and N (H + W) weights for N = H W positions.

    Parameters
    ----------
    channels : int
        C, channels of input and output.
    reduction : int, default 8
        Query and key have `channels // reduction` channels.
    heads : int, default 1
        Number of equal groups of channels with an attention of their own; divides C and C // reduction. The paper has
        1.
    recurrence : int, default 2
        How often to attend, with the same parameters.
    bias : bool, default False
        Give the convolutions a bias. The authors' code has it; False is for comparison on equal terms.
    device, dtype : optional
        Of the parameters, as in `torch.nn`.

    Attributes
    ----------
    query_conv, key_conv, value_conv : torch.nn.Conv2d
    gamma : torch.nn.Parameter
        Shape (1,). With `bias=True` the names and shapes of all parameters are those of the authors' code.

    Raises
    ------
    ValueError
        Numbers that are out of range or do not divide.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        heads: int = 1,
        recurrence: int = 2,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        reduced = reduced_channels(channels, reduction, heads)
        if recurrence < 1:
            raise ValueError(f"recurrence: expected an integer >= 1, got {recurrence}")
        self.channels, self.reduction, self.heads, self.recurrence = channels, reduction, heads, recurrence
        factory = {"device": device, "dtype": dtype}
        self.query_conv = projection(channels, reduced, bias, factory)
        self.key_conv = projection(channels, reduced, bias, factory)
        self.value_conv = projection(channels, channels, bias, factory)
        self.gamma = nn.Parameter(torch.zeros(1, **factory))

    def reset_parameters(self) -> None:
        """Draw the convolutions anew and set gamma to 0."""
        for conv in (self.query_conv, self.key_conv, self.value_conv):
            conv.reset_parameters()
        nn.init.zeros_(self.gamma)

    def _attention(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A for position (i, j): (..., heads, H, W, H) to (k, j) in its column and (..., heads, H, W, W) to (i, k)."""
        query, key = split_heads(self.query_conv(x), self.heads), split_heads(self.key_conv(x), self.heads)
        column = torch.einsum("...cij,...ckj->...ijk", query, key)
        row = torch.einsum("...cij,...cik->...ijk", query, key)
        height = x.shape[-2]
        # The centre is on both lines and counts in the row only.
        centre = torch.eye(height, dtype=torch.bool, device=x.device).unsqueeze(1)
        joint = torch.cat([column.masked_fill(centre, float("-inf")), row], -1).softmax(-1)
        return joint[..., :height], joint[..., height:]

    def _attend(self, x: Tensor) -> Tensor:
        value = split_heads(self.value_conv(x), self.heads)
        column, row = self._attention(x)
        y = torch.einsum("...ijk,...ckj->...cij", column, value) + torch.einsum("...ijk,...cik->...cij", row, value)
        return self.gamma * y.flatten(-4, -3) + x

    def forward(self, x: Tensor) -> Tensor:
        """Attend, `recurrence` times.

        Parameters
        ----------
        x : Tensor
            Features (..., C, H, W) with at most one batch axis, of the parameters' dtype.

        Returns
        -------
        Tensor, the shape and dtype of x.
        """
        for _ in range(self.recurrence):
            x = self._attend(x)
        return x

    def attention_map(self, x: Tensor, position: Sequence[int]) -> Tensor:
        """How much the values in every position count in the output at `position`, the skips left out.

        The row of A_R ... A_1 that belongs to `position`, A_r being the attention of the r-th time; without gamma,
        its sum is 1.

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
        inputs = [x]
        for _ in range(self.recurrence - 1):
            inputs.append(self._attend(inputs[-1]))
        there = one_hot(x[..., : self.heads, :, :], position)
        for given in reversed(inputs):
            column, row = self._attention(given)
            there = torch.einsum("...ij,...ijk->...kj", there, column) + torch.einsum("...ij,...ijk->...ik", there, row)
        return there.squeeze(-3) if self.heads == 1 else there

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        text = f"{self.channels}, reduction={self.reduction}, heads={self.heads}, recurrence={self.recurrence}"
        return f"{text}, bias={self.value_conv.bias is not None}"
