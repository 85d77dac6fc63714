"""Greedy coordinate gradient the plain way: whole rows, all logits, nothing kept or shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lpa_interp.jailbreaks.suffix_loss import SuffixProblem
from lpa_interp.model import HookedTransformer


def target_loss(logits: Tensor, problem: SuffixProblem) -> Tensor:
    """Cross entropy of the target from the logits of whole rows, [batch]."""
    predicting = logits[:, -len(problem.target) - 1 : -1].log_softmax(-1)
    labels = torch.tensor(problem.target).expand(len(logits), -1)
    return -predicting.gather(-1, labels[..., None])[..., 0].mean(-1)


def whole_rows(problem: SuffixProblem, suffixes: Tensor) -> Tensor:
    around = [torch.tensor(part).expand(len(suffixes), -1) for part in _around(problem)]
    return torch.cat([around[0], suffixes, around[1]], dim=1)


def _around(problem: SuffixProblem) -> tuple[list[int], list[int]]:
    return problem.before, [*problem.after, *problem.target]


@torch.no_grad()
def losses(model: HookedTransformer, problem: SuffixProblem, suffixes: Tensor) -> Tensor:
    """The loss of each suffix, [n]."""
    rows = whole_rows(problem, suffixes)
    return target_loss(model(rows, attention_mask=torch.ones_like(rows)), problem)


def one_hot_loss(
    model: HookedTransformer, problem: SuffixProblem
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The suffix as one-hot rows, and the loss as a function of them."""
    suffix = torch.tensor([problem.suffix])
    row = whole_rows(problem, suffix)
    weight: Any = model.embed.W_E
    start = torch.nn.functional.one_hot(suffix[0], len(weight)).to(weight.dtype)
    place = slice(len(problem.before), len(problem.before) + len(problem.suffix))

    def loss(one_hot: Tensor) -> Tensor:
        def replace(activation: Tensor, hook: Any = None) -> Tensor:
            return torch.cat(
                [
                    activation[:, : place.start],
                    (one_hot @ weight)[None],
                    activation[:, place.stop :],
                ],
                dim=1,
            )

        with model.hooks(fwd_hooks=[("hook_embed", replace)]):
            return target_loss(model(row, attention_mask=torch.ones_like(row)), problem)[0]

    return start, loss


def gradient(model: HookedTransformer, problem: SuffixProblem) -> Tensor:
    """The gradient of the loss with respect to the one-hot suffix, [n_suffix, d_vocab]."""
    start, loss = one_hot_loss(model, problem)
    return torch.autograd.grad(loss(start.requires_grad_()), start)[0]


def best_swap(
    model: HookedTransformer, problem: SuffixProblem, allowed: Tensor
) -> tuple[float, list[int]]:
    """The lowest loss of all single swaps of the suffix, and the suffix that has it."""
    swapped = [
        [*problem.suffix[:place], token, *problem.suffix[place + 1 :]]
        for place in range(len(problem.suffix))
        for token in allowed.nonzero()[:, 0].tolist()
    ]
    found = losses(model, problem, torch.tensor(swapped))
    return found.min().item(), swapped[int(found.argmin())]
