"""Latent attacks: a perturbation of each prompt's activations, searched by gradient descent.

The search of latent adversarial training turned on the finished model: one hook point, the
prompt's tokens. The perturbation is added while the prompt is read; the tokens of the answer are
left alone. Harmless prompts are perturbed in the same way, so that over-refusal is measured too.

Source: Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.generation import RowHooks
from lpa_interp.hooks import HookFunction, Intervention
from lpa_interp.jailbreaks.attack import (
    Attack,
    AttackedPrompt,
    Budget,
    Mount,
    Mounted,
    Progress,
)
from lpa_interp.jailbreaks.latent_search import DEFAULT_HOOK, LatentSearch, latent_deltas, one_site
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt

CITATION = "Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549"


def latent_pgd_attack(
    epsilon: float, hook_name: str = DEFAULT_HOOK, n_steps: int = 16, batch_size: int = 8
) -> Attack:
    """Perturbations that bring out an affirmative answer.

    Args:
        epsilon: Bound on each token's L2 norm, in units of the hook point's median norm.
        hook_name: A pattern for one hook point that carries d_model.
        n_steps: Steps of PGD for each prompt.
        batch_size: Prompts that are searched at a time.

    Raises:
        InputError: Epsilon is not positive, or the steps or the batch size are less than 1.
            While it is mounted: the pattern does not stand for one hook point, or a prompt is
            too long.
    """
    search = LatentSearch(
        epsilon=epsilon, hook_name=hook_name, n_steps=n_steps, batch_size=batch_size
    )
    what = f"L2 norm per token at most {epsilon:g} of the median, {n_steps} steps"
    return Attack(
        name=f"latent_pgd:{epsilon:g}",
        description=f"searched perturbation of the prompt's tokens at {hook_name}, {what}",
        citation=CITATION,
        mount=_mount(search),
        budget=Budget(steps=n_steps),
    )


def latent_random_attack(
    epsilon: float,
    hook_name: str = DEFAULT_HOOK,
    n_steps: int = 16,
    batch_size: int = 8,
    seed: int = 0,
) -> Attack:
    """The control: `latent_pgd_attack` with every token's vector in a random direction.

    Norms are those that the search reached, token for token.

    Raises:
        InputError: As `latent_pgd_attack`.
    """
    search = LatentSearch(
        epsilon=epsilon,
        hook_name=hook_name,
        n_steps=n_steps,
        batch_size=batch_size,
        random_seed=seed,
    )
    return Attack(
        name=f"latent_random:{epsilon:g}",
        description=f"control: random directions of the norms of latent_pgd:{epsilon:g}",
        citation=CITATION,
        mount=_mount(search),
        budget=Budget(steps=n_steps),
    )


def _mount(search: LatentSearch) -> Mount:
    if not (math.isfinite(search.epsilon) and search.epsilon > 0):
        raise InputError("epsilon", f"{search.epsilon} is not allowed", "a number above 0")
    if search.n_steps < 1 or search.batch_size < 1:
        raise InputError("n_steps and batch_size", "less than 1", "1 or more of each")

    @contextmanager
    def mount(
        model: HookedTransformer, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> Iterator[Mounted]:
        site = one_site(model, search.hook_name)
        deltas = latent_deltas(model, prompts, search, progress)
        given = tuple(AttackedPrompt(prompt.text) for prompt in prompts)
        yield Mounted(given, add_to_prompts(site, deltas))

    return mount


def add_to_prompts(site: str, deltas: Sequence[Float[Tensor, "_pos d_model"]]) -> RowHooks:
    """Hooks that add each prompt's perturbation at its own tokens, while the prompt is read."""

    def row_hooks(indices: Sequence[int], mask: Int[Tensor, "batch pos"]) -> Intervention:
        rows = [deltas[index] for index in indices]
        if mask.sum(1).tolist() != [len(row) for row in rows] or mask.shape[1] < 2:
            raise ValueError("the mask is not that of the prompts that were perturbed")
        delta = torch.zeros(*mask.shape, rows[0].shape[1], device=mask.device)
        delta[mask.bool()] = torch.cat(rows).to(mask.device)
        return [(site, _perturb_prompt(delta))]

    return row_hooks


def _perturb_prompt(delta: Float[Tensor, "batch pos d_model"]) -> HookFunction:
    """Adds to the pass over the whole prompt and leaves those over one new token alone."""

    def hook_function(
        activation: Float[Tensor, "batch some_pos d_model"], hook: Any = None
    ) -> Float[Tensor, "batch some_pos d_model"]:
        if activation.shape[1] == 1:
            return activation
        return activation + delta.to(activation.dtype)

    return hook_function
