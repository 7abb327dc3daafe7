"""Log-likelihoods of the two sides of pairs under a model that draws code after code, with gradients.

They are exact, so that a pair's visits see the same; a caption's is of the tokens that were sampled, about the real
image's codes, decoded as the model sees its own drawings.

Shape suffixes: B pairs, 2 winner and loser, N codes of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gapbench.models.janus.model import Janus
from gapbench.records import InputError
from hermesflow.likelihood import Likelihood, check_caption, check_codes, placed
from hermesflow.records import CaptionCandidate, Codes, Pair


class AutoregressiveLikelihoods:
    """As `likelihood.Likelihoods`. guidance: of drawings, the one that they were drawn with."""

    def __init__(self, model: Janus, question: str, guidance: float) -> None:
        self.model, self.question, self.guidance = model, question, guidance

    @property
    def device(self) -> torch.device:
        return self.model.backbone.device

    @property
    def network(self) -> torch.nn.Module:
        return self.model.network

    def told(self) -> dict[str, Any]:
        return {"views": "exact", "question": self.question, "guidance": self.guidance}

    def same_as(self, visit: int) -> int:
        """The first visit that sees what `visit` sees."""
        return 0

    def captions(self, pairs: Sequence[Pair]) -> Likelihood:
        """The understanding side."""
        there = [number for number, pair in enumerate(pairs) if pair.captions is not None]
        if not there:
            return placed(None, [], there, len(pairs), self.device)
        sides = [side for at in there for side in (pairs[at].captions.win, pairs[at].captions.lose)]
        real = [self.model.coded(torch.tensor(self._codes(pairs[at], pairs[at].codes))) for at in there]
        pictures = [picture for picture in real for _ in range(2)]
        said = [(side.tokens, side.ended) for side in sides]
        log_B2 = self.model.caption_log_likelihood(pictures, self.question, said).view(-1, 2)
        tokens = torch.tensor([float(len(some) + ended) for some, ended in said]).view(-1, 2).tolist()
        return placed(log_B2, tokens, there, len(pairs), self.device)

    def images(self, pairs: Sequence[Pair], visits: Sequence[int]) -> Likelihood:
        """The generation side, whatever the visits."""
        there = [number for number, pair in enumerate(pairs) if pair.images is not None]
        if not there:
            return placed(None, [], there, len(pairs), self.device)
        drawn = [image for at in there for image in (pairs[at].images.win, pairs[at].images.lose)]
        prompts = [pairs[at].caption for at in there for _ in range(2)]
        codes_BN = torch.tensor([image.codes for image in drawn])
        log_B2 = self.model.image_log_likelihood(prompts, codes_BN, self.guidance).view(-1, 2)
        return placed(log_B2, [[float(codes_BN.shape[1])] * 2] * len(there), there, len(pairs), self.device)

    def check(self, pairs: Sequence[Pair]) -> None:
        """Raises InputError, naming the pair, for one that this model cannot have made."""
        for pair in pairs:
            if pair.captions is not None:
                self._codes(pair, pair.codes)
                for caption in (pair.captions.win, pair.captions.lose):
                    self._check_caption(pair, caption)
            if pair.images is not None:
                for image in (pair.images.win, pair.images.lose):
                    self._codes(pair, image.codes)

    def _check_caption(self, pair: Pair, caption: CaptionCandidate) -> None:
        check_caption(pair, caption, self.network.config.text_config.vocab_size)
        room = self.model.caption_room(self.question)
        if (count := len(caption.tokens)) > room:
            raise InputError(f"pair {pair.id}: a caption takes {count} tokens, there is room for {room}")

    def _codes(self, pair: Pair, codes: Codes) -> Codes:
        check_codes(pair, codes, self.model.image_tokens, self.model.codebook_size)
        return codes
