"""Semi-global shape-aware aggregation: every position gathers support from its whole row and column, in linear time.

NumPy arrays in, NumPy arrays out. `sgs.torch` has the same functions for tensors and `sgs.nn` the modules; both load
on first use. `sgs.reference` has the slow definitions. Equation numbers are those of `docs/math.md`.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from sgs import reference
from sgs._config import get_include, get_isa, get_num_threads, num_threads, set_isa, set_num_threads, show_config
from sgs.filters import (
    attention_map,
    edge_weights,
    line_filter,
    scan,
    semi_global_filter,
    tree_aggregate,
    tree_update,
)

__version__ = version("sgsnet")

__all__ = [
    "__version__",
    "attention_map",
    "edge_weights",
    "get_include",
    "get_isa",
    "get_num_threads",
    "line_filter",
    "num_threads",
    "reference",
    "scan",
    "semi_global_filter",
    "set_isa",
    "set_num_threads",
    "show_config",
    "tree_aggregate",
    "tree_update",
]

_LAZY = ("nn", "torch")  # need torch, which importing `sgs` must not


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return import_module(f"sgs.{name}")
    raise AttributeError(f"module 'sgs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
