"""The depth transformer: from the language model's state at a position to the position's D codes, one after another.

Source: `rqtransformer` of mit-han-lab/vila-u, after RQ-Transformer (arXiv 2203.01941); state-dict names are the
published ones. At depth 0 it reads the state, at depth d the sum of the vectors of codes 0 to d - 1. Dropout, 0.1 in
the reference's training, is left out.

Shape suffixes: M positions of all images, D depths, E width, K codes, C width of a code's vector, T width of the state.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.vila_u import config

Past = list[list[Tensor]]
"""Of each layer keys and values (M,heads,d,E/heads), or nothing yet."""


class SelfAttention(nn.Module):
    """(M,d,E) -> same, causal."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """past: what came before, one step being given alone; this step's is added to it."""
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        if past is not None:
            past[:] = [k, v] if not past else [torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)]
            k, v = past
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, past: list[Tensor] | None = None) -> Tensor:
        x = x + self.attn(self.ln1(x), past)
        return x + self.mlp(self.ln2(x))


class DepthTransformer(nn.Module):
    def __init__(self, sizes: config.Depth) -> None:
        super().__init__()
        self.depth = sizes.depth
        self.in_mlp_1 = nn.Linear(sizes.vision_width, sizes.width)
        self.in_mlp_2 = nn.Linear(sizes.text_width, sizes.width)
        self.pos_emb_d = nn.Parameter(torch.zeros(1, sizes.depth, sizes.width))
        self.head_transformer = nn.Module()
        self.head_transformer.blocks = nn.ModuleList(Block(sizes.width, sizes.heads) for _ in range(sizes.layers))
        parts = OrderedDict(layer_norm=nn.LayerNorm(sizes.width), linear=nn.Linear(sizes.width, sizes.codes))
        self.classifier_mlp = nn.Sequential(parts)

    def forward(self, states_MT: Tensor, vectors_MDC: Tensor) -> Tensor:
        """Logits (M,D,K) float32 of all codes, given states and the vectors of the codes themselves."""
        sums_MdC = vectors_MDC[:, :-1].cumsum(dim=1).to(states_MT.dtype)
        x_MDE = torch.cat([self.in_mlp_2(states_MT)[:, None], self.in_mlp_1(sums_MdC)], dim=1) + self.pos_emb_d
        for block in self.head_transformer.blocks:
            x_MDE = block(x_MDE)
        return self.classifier_mlp(x_MDE).float()

    def begin(self) -> Past:
        return [[] for _ in self.head_transformer.blocks]

    def step(self, depth: int, states_MT: Tensor, sum_MC: Tensor | None, past: Past) -> Tensor:
        """Logits (M,K) float32 of the codes at `depth`; sum_MC: of the vectors of those before, None at depth 0."""
        x_ME = self.in_mlp_2(states_MT) if sum_MC is None else self.in_mlp_1(sum_MC.to(states_MT.dtype))
        x_M1E = x_ME[:, None] + self.pos_emb_d[:, depth]
        for block, of_layer in zip(self.head_transformer.blocks, past, strict=True):
            x_M1E = block(x_M1E, of_layer)
        return self.classifier_mlp(x_M1E)[:, 0].float()
