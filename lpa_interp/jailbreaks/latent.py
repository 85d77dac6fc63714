"""Latent attacks: a perturbation of each prompt's activations, searched by gradient descent.

The search of latent adversarial training (`lpa_interp.attack.pgd`) turned on the finished model:
one hook point, the prompt's tokens, toward an affirmative opening and away from a refusal. The
perturbation is added while the prompt is read; the tokens of the answer are left alone. Harmless
prompts are perturbed in the same way, so that over-refusal is measured too.

The answer to each prompt depends on no other: the radius comes from shipped requests and not
from the prompts under attack, losses are summed over a batch, and random directions are drawn
for each prompt by its id.

Source: Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.attack import pgd, site_norms
from lpa_interp.batches import TraitBatch
from lpa_interp.benchmarks import load_benchmark, sample_pairs
from lpa_interp.chat import completion_row, row_batches, stack_rows, tokenizer_of
from lpa_interp.constraints import same_norm_random
from lpa_interp.errors import InputError
from lpa_interp.hooks import HookFunction, Intervention, require_d_model, resolve_hooks
from lpa_interp.jailbreaks.attack import (
    Attack,
    AttackedPrompt,
    Budget,
    Mount,
    Mounted,
    Progress,
    RowHooks,
    attacked_rows,
)
from lpa_interp.jailbreaks.written import DEFAULT_PREFILL
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS
from lpa_interp.train_config import TrainConfig

DEFAULT_HOOK = "blocks.{0.5}.hook_resid_pre"
CITATION = "Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549"
REFERENCE_PAIRS = 16
"""Pairs of shipped requests whose tokens give the activation norm that epsilon is a share of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSearch:
    """A search for latent perturbations.

    ``epsilon`` bounds the L2 norm of each token's vector, in units of the hook point's median
    activation norm; a step of AdamW moves a token by about ``step_share`` of that bound. With
    ``random_seed`` every vector that was found is turned into a random direction.
    """

    epsilon: float
    hook_name: str = DEFAULT_HOOK
    n_steps: int = 16
    step_share: float = 0.25
    batch_size: int = 8
    random_seed: int | None = None


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
        yield Mounted(_given(prompts), add_to_prompts(site, deltas))

    return mount


def one_site(model: HookedTransformer, pattern: str) -> str:
    """The hook point that a pattern stands for.

    Raises:
        InputError: It stands for none or several, or the hook point does not carry d_model.
    """
    names = resolve_hooks(model, [pattern])
    if len(names) > 1:
        raise InputError(f"hook point {pattern!r}", f"stands for {len(names)}", "one hook point")
    require_d_model(names)
    return names[0]


def latent_deltas(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    search: LatentSearch,
    progress: Progress | None = None,
) -> list[Float[Tensor, "_pos d_model"]]:
    """The perturbation of each prompt, on the CPU; pos runs over the prompt's own tokens.

    The model is unchanged afterwards. An attached adapter takes part and is not trained.

    Raises:
        InputError: See `latent_pgd_attack`.
        NumericalError: A loss, a gradient or an activation is not finite.
    """
    site, rows = one_site(model, search.hook_name), attacked_rows(model, _given(prompts))
    deltas = [torch.empty(0, model.cfg.d_model)] * len(rows)
    done = 0
    with _frozen(model):
        radius = search.epsilon * reference_norm(model, site)
        for chosen, tokens, mask in row_batches(model, rows, search.batch_size):
            batch = opening_batch(model, [prompts[index] for index in chosen], tokens, mask)
            found = pgd(model, batch, [site], _settings(model, batch, search, radius))
            for index, delta, real in zip(chosen, found.deltas[site], mask.bool(), strict=True):
                own = delta[: len(real)][real].cpu()
                deltas[index] = _turned(own, radius, prompts[index], search.random_seed)
            done += len(chosen)
            if progress is not None:
                progress(done, len(rows))
    return deltas


def opening_batch(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
) -> TraitBatch:
    """Prompts with a refusal as the desired answer and their affirmative target as the other.

    Both are openings: neither is closed, for an answer that ends after "Sure, here is" is of no
    use to an attacker.

    Raises:
        InputError: A prompt and its answers are longer than the model's context.
    """
    affirmative = [(prompt.target or DEFAULT_PREFILL).strip() for prompt in prompts]
    openings = [REFUSALS[0]] * len(prompts) + affirmative
    answers, answer_mask = stack_rows(
        [completion_row(model, text, end=False) for text in openings],
        tokenizer_of(model).pad_token_id,
        model.cfg.device,
        side="right",
    )
    shape = (2, len(prompts), -1)
    n_positions = tokens.shape[1] + answers.shape[1]
    if n_positions > model.cfg.n_ctx:
        where = f"prompt {prompts[-1].id!r} or one beside it"  # batches are sorted by length
        found = f"has {n_positions} tokens with its answer"
        raise InputError(where, found, f"at most {model.cfg.n_ctx}, the model's context")
    return TraitBatch(tokens, mask, mask, answers.view(shape), answer_mask.view(shape))


def reference_norm(model: HookedTransformer, site: str) -> float:
    """Median L2 norm of activations at the prompt tokens of shipped requests."""
    requests = sample_pairs(load_benchmark("requests", split="organism"), REFERENCE_PAIRS, seed=0)
    rows = attacked_rows(model, _given(requests))
    stacked = stack_rows(rows, tokenizer_of(model).pad_token_id, model.cfg.device)
    batch = opening_batch(model, requests, *stacked)
    return site_norms(model, batch, [site], batch.attack_mask("prompt"))[site]


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


def _given(prompts: Sequence[Prompt]) -> tuple[AttackedPrompt, ...]:
    return tuple(AttackedPrompt(prompt.text) for prompt in prompts)


def _settings(
    model: HookedTransformer, batch: TraitBatch, search: LatentSearch, radius: float
) -> TrainConfig:
    """The settings of `pgd` that give each prompt the search that it would have alone."""
    n_refusal, n_affirmative = batch.answer_mask.sum((1, 2)).tolist()
    return TrainConfig(
        preset="custom",
        attack_tokens="prompt",
        constraint="l2_token",
        epsilon=radius,
        epsilon_unit="absolute",
        pgd_steps=search.n_steps,
        # AdamW moves a token by about sqrt(d_model) times its step size.
        pgd_learning_rate=search.step_share * radius / model.cfg.d_model**0.5,
        # Losses are means over the batch's tokens: their sums do not depend on other prompts.
        attack_toward=0.5 * n_affirmative,
        attack_away=0.5 * n_refusal,
        normalise_coefficients=False,
    )


def _turned(
    delta: Float[Tensor, "pos d_model"], radius: float, prompt: Prompt, seed: int | None
) -> Float[Tensor, "pos d_model"]:
    """Random directions of the same norms, where there is a seed."""
    if seed is None:
        return delta
    digest = hashlib.sha256(f"{seed} {prompt.id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    everywhere = torch.ones(1, len(delta), dtype=torch.long)
    return same_norm_random(delta[None], everywhere, radius, "l2_token", generator)[0]


@contextmanager
def _frozen(model: HookedTransformer) -> Iterator[None]:
    """Inside, gradients reach activations alone, and adapted weights are computed once."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), parametrize.cached():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
