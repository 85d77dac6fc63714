"""The loss that a suffix is searched for: its gradient by token, and that of many candidates.

The loss of a suffix is the cross entropy of the target, mean over its tokens, nats, with logits
in float32 or wider. Logits are computed where a target token is predicted and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lpa_interp.chat import Row
from lpa_interp.jailbreaks.suffix_pass import Prefix, empty_prefix, extend, resid_after
from lpa_interp.losses import label_log_probs
from lpa_interp.model import HookedTransformer, unembed

_VOCABULARY_CHUNK = 8192
"""Rows of a bfloat16 embedding that are widened at a time."""


@dataclass(frozen=True, slots=True)
class SuffixProblem:
    """The tokens around a suffix, the suffix to start from, and the answer that is wanted.

    A whole row is ``before + suffix + after + target``.
    """

    before: Row
    suffix: Row
    after: Row
    target: Row

    def __len__(self) -> int:
        return len(self.before) + len(self.suffix) + len(self.after) + len(self.target)


@dataclass(frozen=True, slots=True)
class SuffixReading:
    """One suffix: its loss, whether the target is its greedy answer, and the loss's gradient.

    ``gradient`` is with respect to the one-hot tokens of the suffix; ``prefix`` holds the keys
    and values of everything before the suffix's end.
    """

    suffix: Int[Tensor, " n_suffix"]
    loss: float
    greedy: bool
    gradient: Float[Tensor, "n_suffix d_vocab"]
    prefix: Prefix


class SuffixLoss:
    """The loss of suffixes in one problem. Keeps the keys and values of what is before them.

    The model, and the hooks that are open on it, must stay as they are.
    """

    def __init__(self, model: HookedTransformer, problem: SuffixProblem) -> None:
        self.model = model
        self.target = torch.tensor(problem.target, device=model.cfg.device)
        # The last target token predicts nothing that counts, so it is not run.
        self.rest = torch.tensor([*problem.after, *problem.target[:-1]], device=model.cfg.device)
        before = torch.tensor([problem.before], device=model.cfg.device)
        with torch.no_grad():
            self.before = extend(model, empty_prefix(model, len(problem)), before)[1]

    def read(self, suffix: Int[Tensor, " n_suffix"]) -> SuffixReading:
        """The loss of a suffix and its gradient at every token of the vocabulary.

        Source: Zou et al. 2023, arXiv 2307.15043, section 2.2.
        """
        row = torch.cat([suffix, self.rest])[None]
        with torch.enable_grad(), _leaf_embedding(self.model, row) as leaf:
            resid, prefix = extend(self.model, self.before, row)
            losses, greedy = self._losses(resid)
            (slope,) = torch.autograd.grad(losses[0], leaf)
        gradient = _by_token(self.model, slope[0, : len(suffix)])
        known = prefix.first(len(self.before) + len(suffix))
        return SuffixReading(suffix, losses.item(), bool(greedy.item()), gradient, known)

    @torch.no_grad()
    def of_candidates(
        self,
        candidates: Int[Tensor, "n n_suffix"],
        reading: SuffixReading,
        batch_size: int,
    ) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Loss of each candidate, and whether the target is its greedy answer, on the CPU.

        Candidates that differ from the suffix that was read at about the same place share a
        pass, which begins at the first token that differs in any of them.
        """
        first = (candidates != reading.suffix).int().argmax(dim=1)
        losses = torch.empty(len(candidates), dtype=torch.float64)
        greedy = torch.empty(len(candidates), dtype=torch.bool)
        for chosen in first.argsort(stable=True).split(batch_size):
            start = int(first[chosen].min())
            rows = torch.cat([candidates[chosen, start:], self.rest.expand(len(chosen), -1)], dim=1)
            prefix = reading.prefix.first(len(self.before) + start)
            found = self._losses(resid_after(self.model, prefix, rows))
            losses[chosen.cpu()], greedy[chosen.cpu()] = found[0].cpu().double(), found[1].cpu()
        return losses, greedy

    def _losses(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
        """From rows that end one token before the target does."""
        logits = unembed(self.model, resid[:, -len(self.target) :], wide=True)
        target = self.target.expand(len(logits), -1)
        greedy = (logits.argmax(-1) == target).all(-1)
        return -label_log_probs(logits, target).mean(-1), greedy


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter asks for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def _leaf_embedding(
    model: HookedTransformer, tokens: Int[Tensor, "1 pos"]
) -> Iterator[Float[Tensor, "1 pos d_model"]]:
    """Inside, the embeddings of these tokens are a tensor that takes gradients.

    It is put in before any hook point, so that open hooks stay between it and the blocks.
    """
    embed: Any = model.embed
    leaf = embed.W_E.detach()[tokens].requires_grad_()

    def replace(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return embed.ln(leaf) if embed.cfg.post_embedding_ln else leaf

    handle = embed.register_forward_hook(replace)
    try:
        yield leaf
    finally:
        handle.remove()


def _by_token(
    model: HookedTransformer, slope: Float[Tensor, "n_suffix d_model"]
) -> Float[Tensor, "n_suffix d_vocab"]:
    """The gradient of the one-hot tokens: that of their embedding along each token's row."""
    wide = torch.promote_types(slope.dtype, torch.float32)
    parts = model.embed.W_E.detach().split(_VOCABULARY_CHUNK)
    return torch.cat([slope.to(wide) @ part.to(wide).T for part in parts], dim=1)
