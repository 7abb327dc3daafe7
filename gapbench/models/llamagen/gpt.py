"""LlamaGen's language model: a Llama over image codes, after a condition of text features or of a class.

Source: LlamaGen (arXiv 2406.06525), `gpt.py` of FoundationVision/LlamaGen. State-dict names are the published ones.
A row is the condition's slots, then the image's codes in raster order; the last slot predicts the first code.

Rotary angles are a code's row and column. Slots have none: their cosines are zero as well as their sines, so that
their queries and keys vanish, and every slot that may be seen counts the same.

Shape suffixes: B rows, P conditions, T slots, N codes of an image, L positions, K key positions, D width, H heads, d
head width, V code book, C width of the text features.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gapbench.models.llamagen.config import TEXT, GptConfig

if TYPE_CHECKING:
    from gapbench.models.unified.backbone import KeyValues


class Condition(NamedTuple):
    """The slots' inputs, given and unconditional (P,T,D), and those that may be seen (P,T) bool, which both share."""

    given: Tensor
    without: Tensor
    visible: Tensor

    def rows(self, both: bool) -> tuple[Tensor, Tensor]:
        """(P,T,D) and (P,T) of what is given; with `both`, followed by as many rows without it."""
        if not both:
            return self.given, self.visible
        return torch.cat([self.given, self.without]), self.visible.repeat(2, 1)


class CaptionEmbedder(nn.Module):
    """Text features to slots. `uncond_embedding` (T,C) was never trained, but its values are part of the model."""

    uncond_embedding: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        fc1, fc2 = (nn.Linear(ins, config.dim, bias=False) for ins in (config.caption_dim, config.dim))
        self.cap_proj = nn.Sequential(OrderedDict(fc1=fc1, act=nn.GELU(approximate="tanh"), fc2=fc2))
        self.register_buffer("uncond_embedding", torch.zeros(config.slots, config.caption_dim))

    def condition(self, features_PTC: Tensor, visible_PT: Tensor) -> Condition:
        """features: at the end of the slots, as many as there are; of the unconditional ones, the same are seen."""
        slots = features_PTC.shape[1]
        without_TD = self.cap_proj(self.uncond_embedding[-slots:])
        given_PTD = self.cap_proj(features_PTC.to(without_TD.dtype))
        return Condition(given_PTD, without_TD.expand_as(given_PTD), visible_PT)


class LabelEmbedder(nn.Module):
    """Class numbers to one slot; the table's last row is the unconditional one."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(config.num_classes + 1, config.dim)

    def condition(self, numbers_P: Tensor) -> Condition:
        given_P1D = self.embedding_table(numbers_P)[:, None]
        without_D = self.embedding_table.weight[-1]
        visible_P1 = torch.ones_like(numbers_P, dtype=torch.bool)[:, None]
        return Condition(given_P1D, without_D.expand_as(given_P1D), visible_P1)


class RMSNorm(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class Attention(nn.Module):
    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, config.n_head
        self.wqkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x_BLD: Tensor, rotary_Lp2: Tensor, visible: Tensor, cache: KeyValues | None) -> Tensor:
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in self.wqkv(x_BLD).chunk(3, dim=-1))
        q, k = rotated(q, rotary_Lp2), rotated(k, rotary_Lp2)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        y_BHLd = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.wo(y_BHLd.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(config.dim, config.ffn_hidden, bias=False) for _ in range(2))
        self.w2 = nn.Linear(config.ffn_hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(config, layer), FeedForward(config)
        self.attention_norm, self.ffn_norm = RMSNorm(config), RMSNorm(config)

    def forward(self, x: Tensor, rotary_Lp2: Tensor, visible: Tensor, cache: KeyValues | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary_Lp2, visible, cache)
        return x + self.feed_forward(self.ffn_norm(x))


class Gpt(nn.Module):
    """rotary (T+N,d/2,2) float32 is no weight: whoever fills the model from the meta device puts it there."""

    rotary: Tensor

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = CaptionEmbedder(config) if config.model_type == TEXT else LabelEmbedder(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = RMSNorm(config)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.register_buffer("rotary", rotary(config), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.output.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype

    def hidden(self, inputs_BLD: Tensor, visible: Tensor, start: int, cache: KeyValues | None = None) -> Tensor:
        """Normed last states (B,L,D). start: where the inputs begin, the first of all slots being 0.

        visible: bool, broadcastable to (B,1,L,K), K counting the kept positions of `cache` first.
        """
        x, rotary_Lp2 = inputs_BLD, self.rotary[start : start + inputs_BLD.shape[1]]
        for layer in self.layers:
            x = layer(x, rotary_Lp2, visible, cache)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(...,D) -> (...,V) float32."""
        return self.output(hidden).float()

    def image_logits(self, inputs_BTD: Tensor, visible_BT: Tensor, codes_BN: Tensor) -> Tensor:
        """(B,N,V) float32: what predicts each code from the condition and the codes before it."""
        slots = inputs_BTD.shape[1]
        inputs_BLD = torch.cat([inputs_BTD, self.tok_embeddings(codes_BN[:, :-1])], dim=1)
        visible = visible_causal(visible_BT, inputs_BLD.shape[1])[:, None]
        return self.logits(self.hidden(inputs_BLD, visible, self.config.slots - slots)[:, slots - 1 :])


def rotary(config: GptConfig) -> Tensor:
    """(T+N,d/2,2) float32: cosines and sines of each position, of its row in the first half, its column in the second.

    Pair i of a half turns by 10000^(-2i/(d/2)) for each row or column.
    """
    half = config.head_dim // 2
    speeds_f = 1.0 / config.rope_base ** (torch.arange(0, half, 2).float() / half)
    turns_gf = torch.outer(torch.arange(config.side), speeds_f)
    of_rows, of_columns = (turns.expand(config.side, config.side, -1) for turns in (turns_gf[:, None], turns_gf[None]))
    angles_Np = torch.cat([of_rows, of_columns], dim=-1).flatten(0, 1)
    image_Np2 = torch.stack([angles_Np.cos(), angles_Np.sin()], dim=-1)
    return torch.cat([torch.zeros(config.slots, half, 2), image_Np2])


def rotated(x_BHLd: Tensor, rotary_Lp2: Tensor) -> Tensor:
    """Each pair of neighbouring values turned, in float32."""
    (a, b), (cos, sin) = x_BHLd.float().unflatten(-1, (-1, 2)).unbind(-1), rotary_Lp2.unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x_BHLd.dtype)


def visible_causal(visible_BT: Tensor, length: int) -> Tensor:
    """(B,L,L) bool: what each position sees: what is before it but hidden slots, and itself."""
    seen_BL = F.pad(visible_BT, (0, length - visible_BT.shape[1]), value=True)
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=visible_BT.device).tril()
    return causal_LL & seen_BL[:, None] | torch.eye(length, dtype=torch.bool, device=visible_BT.device)
