"""Prompts and their answers packed into rows of one pass, so that nothing shared is run twice.

In a *row* an example's answers follow its prompt. In a *tree* the examples follow the start that
their prompts have in common, such as a system prompt: most of a short statement's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lpa_interp.fused import fused_resid
from lpa_interp.hooks import has_open_hooks, perturb
from lpa_interp.model import HookedTransformer

Runs = tuple[
    Float[Tensor, "batch prompt_pos d_model"], Float[Tensor, "answers batch some_pos d_model"]
]
"""Residual streams after the last block: of the prompt's end, and of each answer."""
Masked = tuple[Tensor, Tensor]
"""Tokens and their mask: [batch, pos] of prompts, [answers, batch, pos] of answers."""

TREE_EXAMPLES = 8
"""Most examples in a tree: attention runs over all its tokens, which costs with the square."""
TREE_TOKENS = 8
"""Fewest shared tokens that are worth a tree."""


class Layout(NamedTuple):
    """A packed pass: its tokens, their places, and what each may attend to."""

    tokens: Int[Tensor, "rows pos"]
    positions: Int[Tensor, "rows pos"]
    example: Int[Tensor, " pos"]
    """Which example of the row a position belongs to; -1 where all share it."""
    answer: Int[Tensor, " pos"]
    """Which answer a position belongs to; -1 in the prompt."""
    real: Int[Tensor, "rows pos"]

    def run(self, model: HookedTransformer) -> Float[Tensor, "rows pos d_model"]:
        """The residual stream after the last block."""
        seen = sees(self.example) & sees(self.answer)
        allowed = seen.tril() & self.real.bool()[:, None, :]
        return fused_resid(model, self.tokens, self.positions, allowed)

    def after(self, shared: Int[Tensor, " shared"]) -> Layout:
        """The same layout behind tokens that all examples of a row share."""
        n_rows, n_shared = len(self.tokens), len(shared)
        row, nobody = shared.expand(n_rows, -1), self.example.new_full((n_shared,), -1)
        places = torch.arange(n_shared, device=shared.device).expand(n_rows, -1)
        return Layout(
            torch.cat([row, self.tokens], dim=1),
            torch.cat([places, self.positions], dim=1),
            torch.cat([nobody, self.example]),
            torch.cat([nobody, self.answer]),
            torch.cat([torch.ones_like(row), self.real], dim=1),
        )


def run_packed(
    model: HookedTransformer, prompts: Masked, answers: Masked, deltas: Mapping[str, Tensor]
) -> Runs:
    """One pass over prompts (padded on the left) and answers; gradients flow through it.

    Args:
        model: A model for which `lpa_interp.fused.can_fuse` holds.
        prompts: Tokens and mask.
        answers: Tokens and mask.
        deltas: Perturbations over prompt and answer positions, by hook point.
    """
    tokens, mask = answers
    widths = [tokens.shape[-1]] * len(tokens)
    if has_open_hooks(model):
        return _as_rows(model, prompts, answers, widths, deltas)  # hooks see every position
    widths = mask.sum(2).amax(1).clamp(min=1).tolist()
    n_shared, size = 0 if deltas else shared_start(*prompts), tree_size(len(prompts[0]))
    if size > 1 and n_shared >= TREE_TOKENS:
        return _as_trees(model, prompts, answers, widths, n_shared, size)
    return _as_rows(model, prompts, answers, widths, deltas)


def _as_rows(
    model: HookedTransformer,
    prompts: Masked,
    answers: Masked,
    widths: Sequence[int],
    deltas: Mapping[str, Tensor],
) -> Runs:
    """One row an example: its prompt and all its answers."""
    n_prompt, n_answer = prompts[0].shape[1], answers[0].shape[-1]
    places = (prompts[1].cumsum(1) - 1).clamp(min=0)
    layout = _layout(prompts, places, answers, widths, prompts[1].sum(1), 1)
    wide = {
        name: torch.cat(
            [delta[:, :n_prompt], *[delta[:, n_prompt : n_prompt + width] for width in widths]],
            dim=1,
        )
        for name, delta in deltas.items()
    }
    with model.hooks(fwd_hooks=[(name, perturb(delta)) for name, delta in wide.items()]):
        return _split(layout.run(model), n_prompt, widths, n_answer)


def _as_trees(
    model: HookedTransformer,
    prompts: Masked,
    answers: Masked,
    widths: Sequence[int],
    n_shared: int,
    size: int,
) -> Runs:
    """``size`` examples a row, after the tokens that all prompts begin with."""
    tokens, mask = prompts
    lengths = mask.sum(1)
    # The end of each padded prompt as wide as the longest rest; some of it is shared tokens.
    rest = tokens[:, n_shared:]
    column = torch.arange(rest.shape[1], device=tokens.device)
    places = column + n_shared - (rest.shape[1] + n_shared - lengths)[:, None]
    own = (rest, (places >= n_shared).to(mask.dtype))
    trunk = tokens[lengths.argmax(), :n_shared]
    layout = _layout(own, places.clamp(min=0), answers, widths, lengths, size).after(trunk)
    resid = layout.run(model)[:, n_shared:].unflatten(1, (size, -1)).flatten(0, 1)
    return _split(resid, rest.shape[1], widths, answers[0].shape[-1])


def _layout(
    prompts: Masked,
    places: Int[Tensor, "batch prompt_pos"],
    answers: Masked,
    widths: Sequence[int],
    lengths: Int[Tensor, " batch"],
    size: int,
) -> Layout:
    """Rows of ``size`` examples, each a prompt with its answers behind it.

    Of each answer the first ``width`` tokens are run: the rest is padding in every example.
    """
    n_prompt, n_batch, device = prompts[0].shape[1], len(prompts[0]), places.device
    after = [lengths[:, None] + torch.arange(width, device=device) for width in widths]
    tokens, mask = (
        [part[:, :width] for part, width in zip(parts, widths, strict=True)] for parts in answers
    )
    answer = [-1] * n_prompt + [i for i, width in enumerate(widths) for _ in range(width)]
    example = torch.arange(size, device=device).repeat_interleave(len(answer))

    def rows(*parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1).reshape(n_batch // size, -1)

    return Layout(
        rows(prompts[0], *tokens),
        rows(places, *after),
        example,
        torch.tensor(answer * size, device=device),
        rows(prompts[1], *mask),
    )


def _split(
    resid: Float[Tensor, "batch pos d_model"], n_prompt: int, widths: Sequence[int], n_answer: int
) -> Runs:
    """The prompt's part and each answer's, zeros where an answer was not run."""
    prompt, *parts = resid.split([n_prompt, *widths], dim=1)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, n_answer - part.shape[1])) for part in parts]
    return prompt, torch.stack(padded)


def sees(part: Int[Tensor, "*rows pos"]) -> Bool[Tensor, "*rows pos pos"]:
    """Whether a query (first of the last two axes) may see a key: of its part, or shared (-1)."""
    key, query = part[..., None, :], part[..., :, None]
    return (key == -1) | (key == query)


def shared_start(tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]) -> int:
    """How many tokens all prompts begin with; each keeps one of its own at least."""
    lengths = mask.sum(1)
    column = torch.arange(tokens.shape[1], device=tokens.device)
    aligned = tokens.gather(1, (column + (tokens.shape[1] - lengths)[:, None]) % tokens.shape[1])
    same = (aligned == aligned[:1]).all(0) & (column < lengths.min() - 1)
    return int(same.cumprod(0).sum())


def tree_size(n_batch: int) -> int:
    """The largest number of examples to a tree that divides the batch."""
    return next(size for size in range(TREE_EXAMPLES, 0, -1) if n_batch % size == 0)
