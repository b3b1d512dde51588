"""Context blocks for any network: the paper's semi-global block, and the rivals it is compared with, on equal terms.

All blocks map features (..., C, H, W) to features of the same shape and start with the arguments `channels`,
`reduction`, `heads`; all take `bias`, `device` and `dtype`.
"""

from sgs.nn.criss_cross import CrissCrossAttention
from sgs.nn.non_local import NonLocalBlock
from sgs.nn.semi_global import HierarchicalSemiGlobalBlock, SemiGlobalBlock

__all__ = ["CrissCrossAttention", "HierarchicalSemiGlobalBlock", "NonLocalBlock", "SemiGlobalBlock"]
