"""The search for latent perturbations of prompts, one for each prompt whatever is beside it.

`lpa_interp.attack.pgd` toward an affirmative opening and away from a refusal. The radius comes
from shipped requests and not from the prompts under attack, losses are summed over a batch, and
random directions are drawn for each prompt by its id.

Source: Casper et al. 2024, arXiv 2403.05030; Sheshadri et al. 2024, arXiv 2407.15549.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.attack import pgd, site_norms
from lpa_interp.batches import TraitBatch
from lpa_interp.benchmarks import load_benchmark, sample_pairs
from lpa_interp.chat import chat_rows, completion_row, row_batches, stack_rows, tokenizer_of
from lpa_interp.constraints import same_norm_random
from lpa_interp.errors import InputError
from lpa_interp.hooks import require_d_model, resolve_hooks
from lpa_interp.jailbreaks.written import DEFAULT_PREFILL
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS
from lpa_interp.train_config import TrainConfig

DEFAULT_HOOK = "blocks.{0.5}.hook_resid_pre"
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
    progress: Callable[[int, int], None] | None = None,
) -> list[Float[Tensor, "_pos d_model"]]:
    """The perturbation of each prompt, on the CPU; pos runs over the prompt's own tokens.

    The model is unchanged afterwards. An attached adapter takes part and is not trained.

    Raises:
        InputError: See `latent_pgd_attack`.
        NumericalError: A loss, a gradient or an activation is not finite.
    """
    site, rows = one_site(model, search.hook_name), chat_rows(model, [p.text for p in prompts])
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
    rows = chat_rows(model, [request.text for request in requests])
    stacked = stack_rows(rows, tokenizer_of(model).pad_token_id, model.cfg.device)
    batch = opening_batch(model, requests, *stacked)
    return site_norms(model, batch, [site], batch.attack_mask("prompt"))[site]


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
