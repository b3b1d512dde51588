"""The operators of `sgs.torch` as the tests of transforms call them: what to call, on which tensors.

A case's function takes the module (`sgs.torch` or `torch_reference`), so that both are called alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


@dataclass(frozen=True)
class Case:
    """One operator with arguments that exercise it; all tensors are differentiable."""

    name: str
    call: Callable[..., Tensor]  # (module, *tensors)
    tensors: Callable[[int, int], tuple[Tensor, ...]]  # (height, width)

    def function(self, module: Any) -> Callable[..., Tensor]:
        return lambda *tensors: self.call(module, *tensors)


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def weights(seed: int, *shape: int) -> Tensor:
    """With one cut."""
    w = torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) * 0.9 + 0.05
    w.view(-1)[w.numel() // 2] = 0.0
    return w


def guide(seed: int, *shape: int) -> Tensor:
    """With equal neighbours along both of the last axes."""
    g = values(seed, *shape)
    g[..., 1, :] = g[..., 0, :]
    g[..., 1] = g[..., 0]
    return g


def confidence(seed: int, *shape: int) -> Tensor:
    """With missing data."""
    c = torch.rand(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed)) + 0.1
    c[..., 0, 1:] = 0.0
    return c


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def _line_tensors(h: int, w: int) -> tuple[Tensor, ...]:
    return values(1, 2, 3, h, w), weights(2, 2, 1, h - 1, w), values(3, 2, 1, w)


CASES = [
    Case("scan", lambda m, x, w, i: m.scan(x, w, 2, initial=i), _line_tensors),
    Case(
        "line_filter",
        lambda m, x, w, i: m.line_filter(x, w, -2, initial=(i, 0.5)),
        _line_tensors,
    ),
    Case(
        "tree_aggregate",
        lambda m, x, w: m.tree_aggregate(x, w, 2, root=1),
        lambda h, w: _line_tensors(h, w)[:2],
    ),
    Case(
        "tree_update",
        lambda m, x, w: m.tree_update(x, w, 2, root=1),
        lambda h, w: _line_tensors(h, w)[:2],
    ),
    Case(
        "edge_weights",
        lambda m, g, s, t: m.edge_weights(g, -1, s, step=t, heads=2),
        lambda h, w: (guide(4, 2, 4, h, w), number(1.3), number(0.2)),
    ),
    Case(
        "semi_global_filter",
        lambda m, x, g, a, b: m.semi_global_filter(x, g, (b, a), heads=2, residual=True),
        lambda h, w: (values(5, 2, 2, h, w), guide(6, 2, 4, h, w), number(1.1), number(0.8)),
    ),
    Case(
        "semi_global_filter line",
        lambda m, x, s: m.semi_global_filter(x, None, s, blocks=2, normalization="line", metric="sqeuclidean"),
        lambda h, w: (values(7, 1, 2, h, w), number(2.5)),
    ),
    Case(
        "semi_global_filter confidence",
        lambda m, x, g, s, c: m.semi_global_filter(x, g, s, blocks=2, confidence=c, metric="cityblock"),
        lambda h, w: (values(8, 2, 2, h, w), guide(9, 2, 2, h, w), number(1.2), confidence(10, 2, h, w)),
    ),
    Case(
        "attention_map",
        lambda m, g, s: m.attention_map(g, (1, -1), s, blocks=2),
        lambda h, w: (guide(11, 2, 3, h, w), number(1.4)),
    ),
]
