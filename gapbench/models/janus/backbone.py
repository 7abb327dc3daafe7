"""Janus' language model, transformers' own Llama, with what leads into it and out of it.

Text and image codes have embeddings and a head each; pictures to answer about come in as SigLIP's features.

Shape suffixes: B rows, L positions, N codes of an image, C code book, V vocabulary, D width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import JanusForConditionalGeneration

from gapbench.models.unified.backbone import Backbone


class JanusBackbone(Backbone):
    """The network is in `phi`'s place: its `model` takes tokens or embeddings as a Phi's does."""

    phi: JanusForConditionalGeneration

    @property
    def dtype(self) -> torch.dtype:
        return self.phi.lm_head.weight.dtype

    def embed(self, ids_BL: Tensor) -> Tensor:
        return self.phi.get_input_embeddings()(ids_BL)

    def embed_codes(self, codes_BN: Tensor) -> Tensor:
        """(B,N,D) of image codes."""
        parts = self.phi.model
        return parts.generation_aligner(parts.generation_embeddings(codes_BN))

    def code_logits(self, hidden: Tensor) -> Tensor:
        """float32 logits (..., C) of hidden states (..., D)."""
        return self.phi.model.generation_head(hidden).float()

    def features(self, pixels_B3SS: Tensor) -> Tensor:
        """(B,L,D) of pictures, normalised as the image processor does."""
        parts = self.phi.model
        pixels_B3SS = pixels_B3SS.to(self.device, self.dtype)
        return parts.aligner(parts.vision_model(pixels_B3SS, return_dict=True).last_hidden_state)
