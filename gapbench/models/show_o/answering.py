"""What stands before the text of a question about a picture: the picture's codes, seen by each other.

Shape suffixes: P pictures, N codes of an image.
"""

from __future__ import annotations

from torch import Tensor

from gapbench.models.show_o.layout import Layout, visible_answering
from gapbench.models.unified.backbone import Backbone, KeyValues, picture_cache


def discrete_picture_cache(backbone: Backbone, layout: Layout, codes_PN: Tensor) -> KeyValues:
    """`picture_cache` of [mmu] [soi] codes [eoi]."""
    prefix = layout.picture_prefix(codes_PN.to(backbone.device))
    length = prefix.shape[1]
    return picture_cache(backbone, prefix, visible_answering(length, length, backbone.device))
