"""The paper's blocks: Zhang, Wu, Zhu, "Semi-Global Shape-aware Network", sections 3.2 and 3.3."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sgs.nn._projection import one_hot, projection, reduced_channels, split_heads
from sgs.torch import edge_weights, line_filter, semi_global_filter

_NORMALIZATIONS = ("cross", "line", None)
_METRICS = ("euclidean", "cityblock", "sqeuclidean")


class SemiGlobalBlock(nn.Module):
    """Adds to every position the mean of its row and column, weighted by likeness and nearness (Eq. 4).

    I' = A psi(I) + I, where row u of A has the weights of the positions in the row and column of u, and 0 elsewhere.

    lambda, a 1x1 convolution to `channels // reduction`, gives the guide, whose distances between neighbours make the
    weights; psi, a 1x1 convolution that keeps the channels, gives the values. alpha (along rows) and beta (along
    columns) are the scales of the weights (Eq. 5), learned as logarithms: positive whatever the optimiser does,
    exactly 1 at the start, and pulled to 1 by weight decay. The residual is the block's input I, never psi(I). Linear
    in the number of positions: C (C + C / reduction) multiply-adds per position for lambda and psi, about 14 C
    operations for the rest.

    Parameters
    ----------
    channels : int
        C, channels of input and output.
    reduction : int, default 8
        The guide has `channels // reduction` channels.
    heads : int, default 1
        Number of equal groups of channels, each weighted by its own group of the guide; divides C and C // reduction.
    normalization : {"cross", "line", None}, default "cross"
        What the sums are divided by: the total weight of row and column, the centre counted once (Eq. 3); each line's
        total weight of its own; nothing (Eq. 8). Without normalisation values grow with the length of the lines.
    bias : bool, default False
        Give psi a bias. lambda has none in any case: a constant added to the guide changes no distance.
    learn_scale : bool, default True
        Learn alpha and beta. False leaves both at 1, without parameters: the paper's "no alpha beta".
    device, dtype : optional
        Of the parameters, as in `torch.nn`.
    metric : {"euclidean", "cityblock", "sqeuclidean"}, default "euclidean"
        The distance of neighbours in the guide.
    step : float or (float, float), default 0.0
        Length >= 0 of one step along a column and along a row, in units of that distance: above 0, support fades with
        distance even where the guide is flat.

    Notes
    -----
    `torch.onnx.export` gets another form of the same function, made of matrix products, because ONNX has no operator
    for a recurrence: it takes H + W weights for each position, and as many multiply-adds for each channel.

    Attributes
    ----------
    lambda_, psi : torch.nn.Conv2d
    log_alpha, log_beta : torch.nn.Parameter or None
        Logarithms of the scales, each of shape ().

    Raises
    ------
    ValueError
        Numbers that are out of range or do not divide, an unknown normalisation or metric.

    Examples
    --------
    >>> import torch
    >>> from sgs.nn import SemiGlobalBlock
    >>> block = SemiGlobalBlock(64)
    >>> block(torch.zeros(2, 64, 24, 32)).shape
    torch.Size([2, 64, 24, 32])
    """

    log_alpha: nn.Parameter | None
    log_beta: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        heads: int = 1,
        normalization: str | None = "cross",
        bias: bool = False,
        learn_scale: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        metric: str = "euclidean",
        step: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        reduced = reduced_channels(channels, reduction, heads)
        if normalization not in _NORMALIZATIONS:
            raise ValueError(f"normalization: expected one of 'cross', 'line', None, got {normalization!r}")
        if metric not in _METRICS:
            raise ValueError(f"metric: expected one of {', '.join(map(repr, _METRICS))}, got {metric!r}")
        steps = tuple(step) if isinstance(step, Sequence) else (step, step)
        if len(steps) != 2 or not all(0 <= s < float("inf") for s in steps):
            raise ValueError(f"step: expected one or two finite numbers >= 0, got {step}")
        self.channels, self.reduction, self.heads = channels, reduction, heads
        self.normalization, self.metric, self.step = normalization, metric, steps
        self.learn_scale = learn_scale
        factory = {"device": device, "dtype": dtype}
        self.lambda_ = projection(channels, reduced, False, factory)
        self.psi = projection(channels, channels, bias, factory)
        for name in ("log_alpha", "log_beta"):
            self.register_parameter(name, nn.Parameter(torch.zeros((), **factory)) if learn_scale else None)

    def reset_parameters(self) -> None:
        """Draw lambda and psi anew, as `torch.nn.Conv2d` does, and set alpha and beta to 1."""
        self.lambda_.reset_parameters()
        self.psi.reset_parameters()
        for log_scale in (self.log_alpha, self.log_beta):
            if log_scale is not None:
                nn.init.zeros_(log_scale)

    @property
    def alpha(self) -> Tensor:
        """The scale along rows, shape ()."""
        return self._scale(self.log_alpha)

    @property
    def beta(self) -> Tensor:
        """The scale along columns, shape ()."""
        return self._scale(self.log_beta)

    def _scale(self, log_scale: Tensor | None) -> Tensor:
        return self.psi.weight.new_ones(()) if log_scale is None else log_scale.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate.

        Parameters
        ----------
        x : Tensor
            Features (..., C, H, W) with at most one batch axis, of the parameters' dtype.

        Returns
        -------
        Tensor, the shape, dtype and memory format of x.
        """
        values, guide = self.psi(x), self.lambda_(x)
        if torch.onnx.is_in_onnx_export():
            return self._by_matrices(values, guide) + x
        y = semi_global_filter(
            values,
            guide,
            (self.beta, self.alpha) if self.learn_scale else 1.0,
            normalization=self.normalization,
            metric=self.metric,
            step=self.step,
            channel_axis=x.ndim - 3,
            heads=self.heads,
        )
        # y is new, but a view with heads, whose derivative would be copied; under autocast it may be of a half type.
        return y.add_(x) if self.heads == 1 and y.dtype == x.dtype else y + x

    def _by_matrices(self, values: Tensor, guide: Tensor) -> Tensor:
        """The filter in operations that ONNX has, with every path's weight (3) in a matrix of its line.

        ONNX knows no recurrence but `Scan` and `Loop`, which runtimes interpret step by step. This takes N (H + W)
        weights, and as many multiply-adds for each channel. Weights come from differences of lengths summed from the
        start of the line, so their relative error grows with the length of the line in units of scale.
        """
        v, g = split_heads(values, self.heads), split_heads(guide, self.heads)
        row, row_total = self._along_rows(v, g, self.alpha, self.step[1])
        column, column_total = (t.transpose(-1, -2) for t in self._along_rows(v.mT, g.mT, self.beta, self.step[0]))
        if self.normalization is None:
            y = row + column
        elif self.normalization == "line":
            y = row / row_total + column / column_total
        else:  # both lines hold the centre, which counts once
            y = (row + column - v) / (row_total + column_total - 1)
        return y.flatten(-4, -3)

    def _along_rows(self, v: Tensor, g: Tensor, scale: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """T(v) and T(1) (5) along the last axis, for v and g (..., heads, channels of a head, H, W)."""
        difference = g[..., 1:] - g[..., :-1]
        if self.metric == "cityblock":
            distance = difference.abs().sum(-3)
        else:
            distance = (difference * difference).sum(-3)
            distance = distance.sqrt() if self.metric == "euclidean" else distance
        lengths = nn.functional.pad(((distance + step) / scale).cumsum(-1), (1, 0))
        weights = (-(lengths.unsqueeze(-1) - lengths.unsqueeze(-2)).abs()).exp()
        return (v.transpose(-3, -2) @ weights).transpose(-3, -2), weights.sum(-1).unsqueeze(-3)

    def attention_map(self, x: Tensor, position: Sequence[int], *, residual: bool = False) -> Tensor:
        """How much the values in every position count in the output at `position`, in linear time.

        That is the row of A in I' = A psi(I) + I that belongs to `position`. psi mixes channels and no positions, so
        it has no part in it.

        Parameters
        ----------
        x : Tensor
            Features (..., C, H, W) with at most one batch axis.
        position : (int, int)
            Row and column; negative numbers count from the end.
        residual : bool, default False
            Of A + 1 instead, which counts the input that is added.

        Returns
        -------
        Tensor (..., H, W), or (..., heads, H, W) with several heads. With "cross" and without residual its sum is 1.

        Raises
        ------
        IndexError
            `position` is outside the map.
        ValueError
            `position` is not a pair.
        """
        return _attention([self], [x], position, residual)

    def _adjoint(self, row: Tensor, x: Tensor) -> Tensor:
        """`row` (..., heads, H, W) times A of this block with input x, equation (10) of docs/math.md."""
        guide = self.lambda_(x)
        layout: dict[str, Any] = {"channel_axis": x.ndim - 3, "heads": self.heads}
        weights = {
            axis: edge_weights(guide, axis, scale, metric=self.metric, step=step, **layout)
            for axis, scale, step in zip((-2, -1), (self.beta, self.alpha), self.step, strict=True)
        }

        def along(axis: int, v: Tensor) -> Tensor:
            return line_filter(v, weights[axis], axis)

        if self.normalization is None:
            return along(-2, row) + along(-1, row)
        ones = torch.ones_like(row)
        if self.normalization == "line":
            return along(-2, row / along(-2, ones)) + along(-1, row / along(-1, ones))
        # Both lines hold the centre, which counts once.
        row = row / (along(-2, ones) + along(-1, ones) - 1)
        return along(-2, row) + along(-1, row) - row

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        text = f"{self.channels}, reduction={self.reduction}, heads={self.heads}, normalization={self.normalization!r}"
        text += f", bias={self.psi.bias is not None}, learn_scale={self.learn_scale}"
        return text + f", metric={self.metric!r}, step={self.step}"


class HierarchicalSemiGlobalBlock(nn.Module):
    """Several semi-global blocks in a row, through which every position reaches every other (paper, section 3.3).

    Each block is guided by the output of the block before. With `share` all of them are one block: the paper's H, whose
    parameters do not grow with the number of blocks.

    Parameters
    ----------
    channels : int
        Channels of input and output.
    blocks : int, default 2
        How many blocks.
    share : bool, default True
        Use the same parameters in every block.
    reduction, heads, normalization, bias, learn_scale, device, dtype, metric, step
        As in `SemiGlobalBlock`.

    Attributes
    ----------
    blocks : torch.nn.ModuleList
        The different `SemiGlobalBlock`s: a single one with `share`.

    Raises
    ------
    ValueError
        As in `SemiGlobalBlock`; also where `blocks` < 1.

    Examples
    --------
    >>> from sgs.nn import HierarchicalSemiGlobalBlock
    >>> block = HierarchicalSemiGlobalBlock(512)
    >>> sum(p.numel() for p in block.parameters())
    294914
    """

    def __init__(
        self,
        channels: int,
        blocks: int = 2,
        share: bool = True,
        reduction: int = 8,
        heads: int = 1,
        normalization: str | None = "cross",
        bias: bool = False,
        learn_scale: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        metric: str = "euclidean",
        step: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks: expected an integer >= 1, got {blocks}")
        self.share = share
        self.num_blocks = blocks
        self.blocks = nn.ModuleList(
            SemiGlobalBlock(
                channels,
                reduction,
                heads,
                normalization,
                bias,
                learn_scale,
                device,
                dtype,
                metric=metric,
                step=step,
            )
            for _ in range(1 if share else blocks)
        )

    def _sequence(self) -> list[SemiGlobalBlock]:
        """The blocks in the order of application, a shared one repeated."""
        blocks = [b for b in self.blocks if isinstance(b, SemiGlobalBlock)]
        if not self.share:
            return blocks
        # Compiled for sizes that change, torch 2.6 takes the number for one of them, and no such number of copies.
        return [block for _ in range(self.num_blocks) for block in blocks]

    def reset_parameters(self) -> None:
        """Reset every block."""
        for block in set(self._sequence()):
            block.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate; shapes as in `SemiGlobalBlock.forward`."""
        for block in self._sequence():
            x = block(x)
        return x

    def attention_map(self, x: Tensor, position: Sequence[int], *, residual: bool = False) -> Tensor:
        """How much every position of the first block's values counts in the last block's output at `position`.

        The row of A_b ... A_1 that belongs to `position`, where A_k are the weights of block k for the input that x
        gives it: the ways that lead through one row or column in every block (the paper's Figure 3). `residual`
        counts the inputs that are added, too: the row of (A_b + 1) ... (A_1 + 1). Linear in the number of positions.

        Parameters, result and errors are those of `SemiGlobalBlock.attention_map`.
        """
        blocks = self._sequence()
        inputs = [x]
        for block in blocks[:-1]:
            inputs.append(block(inputs[-1]))
        return _attention(blocks, inputs, position, residual)

    def extra_repr(self) -> str:
        """The arguments that the blocks do not show themselves, for `repr`."""
        return f"blocks={self.num_blocks}, share={self.share}"


def _attention(
    blocks: Sequence[SemiGlobalBlock], inputs: Sequence[Tensor], position: Sequence[int], residual: bool
) -> Tensor:
    """The row of the blocks' operator: the adjoint on a one-hot, last block first."""
    heads = blocks[0].heads
    x = inputs[0]
    row = one_hot(x[..., :heads, :, :], position)
    for block, given in zip(reversed(blocks), reversed(inputs), strict=True):
        back = block._adjoint(row, given)
        row = back + row if residual else back
    return row.squeeze(-3) if heads == 1 else row
