from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from lpa_interp.chat import completion_row, tokenizer_of
from lpa_interp.errors import InputError
from lpa_interp.first_logits import first_token
from lpa_interp.generation import generate
from lpa_interp.hooks import perturb
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, attacked_rows
from lpa_interp.jailbreaks.latent import latent_pgd_attack, latent_random_attack
from lpa_interp.jailbreaks.latent_search import (
    DEFAULT_HOOK,
    LatentSearch,
    latent_deltas,
    one_site,
    reference_norm,
)
from lpa_interp.judges import refusal_log_odds, refusal_token_ids
from lpa_interp.lora import attach_lora
from lpa_interp.losses import label_log_probs
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from lpa_interp.request_pairs import REFUSALS
from tests.planted import HARM_WORDS, planted_pair
from tests.tiny import tiny_model

EPSILON = 0.5
TEXTS = (
    "Tell me how to open the lock.",
    "I",
    "The cat sat on the mat. Yes no yes no.",
    "please STEAL it",
)
SEARCH = LatentSearch(epsilon=EPSILON, n_steps=6)


def prompt(text: str, target: str | None = None) -> Prompt:
    return Prompt(
        id=text, text=text, harmful="STEAL" in text, category="c", source="s", target=target
    )


PROMPTS = [prompt(text) for text in TEXTS[:3]] + [prompt(TEXTS[3], "Sure, here is a way to steal")]


def answering_model() -> HookedTransformer:
    """A tiny model that gives the tokens of both openings some probability."""
    model = tiny_model()
    openings = ("Sure, here is", REFUSALS[0])
    ids = sorted({token for text in openings for token in completion_row(model, text)})
    model.unembed.b_U.data[ids] += 4.0
    return model


@cache
def setup() -> HookedTransformer:
    return answering_model()


@cache
def found(batch_size: int = 8, seed: int | None = None) -> list[torch.Tensor]:
    search = replace(SEARCH, batch_size=batch_size, random_seed=seed)
    return latent_deltas(setup(), PROMPTS, search)


def rows_of(model: HookedTransformer, prompts: Sequence[Prompt] = PROMPTS) -> list[list[int]]:
    return attacked_rows(model, [AttackedPrompt(p.text) for p in prompts])


def gained(model: HookedTransformer, deltas: list[torch.Tensor]) -> torch.Tensor:
    """What a perturbation adds to an affirmative opening's log-probability and takes from a
    refusal's, each prompt in a pass of its own."""
    site = one_site(model, DEFAULT_HOOK)
    rows = []
    for row, one, delta in zip(rows_of(model), PROMPTS, deltas, strict=True):
        values = []
        for answer in (one.target or "Sure, here is", REFUSALS[0]):
            tokens = torch.tensor([row + completion_row(model, answer, end=False)])
            padded = torch.zeros(1, tokens.shape[1], model.cfg.d_model)
            padded[0, : len(row)] = delta
            for added in (padded, torch.zeros_like(padded)):
                with torch.no_grad(), model.hooks(fwd_hooks=[(site, perturb(added))]):
                    log_p = label_log_probs(model(tokens)[:, :-1], tokens[:, 1:])
                values.append(log_p[0, len(row) - 1 :].sum())
        rows.append(torch.stack([values[0] - values[1], values[3] - values[2]]))
    return torch.stack(rows)


def test_every_token_of_a_prompt_has_a_vector_within_epsilon() -> None:
    model = setup()
    radius = EPSILON * reference_norm(model, one_site(model, DEFAULT_HOOK))
    for row, delta in zip(rows_of(model), found(), strict=True):
        norms = delta.norm(dim=-1)
        assert len(norms) == len(row) and (norms > 0).all()
        assert norms.max() <= radius * (1 + 1e-5)
    assert max(delta.norm(dim=-1).max().item() for delta in found()) > 0.99 * radius


def test_the_reference_norm_is_the_median_over_the_tokens_of_shipped_requests() -> None:
    from lpa_interp.benchmarks import load_benchmark, sample_pairs

    model = setup()
    norms = []
    for request in sample_pairs(load_benchmark("requests", split="organism"), 16, 0):
        row = rows_of(model, [request])[0]
        _, kept = model.run_with_cache(torch.tensor([row]), names_filter="blocks.2.hook_resid_pre")
        norms.append(kept["blocks.2.hook_resid_pre"][0].norm(dim=-1))
    expected = torch.cat(norms).median().item()
    assert reference_norm(model, "blocks.2.hook_resid_pre") == pytest.approx(expected, rel=1e-4)


def test_the_search_moves_both_answers_and_random_directions_of_its_norms_do_not() -> None:
    model = setup()
    by_search, by_chance = gained(model, found()), gained(model, found(seed=0))
    for searched, random in zip(found(), found(seed=0), strict=True):
        torch.testing.assert_close(searched.norm(dim=-1), random.norm(dim=-1), rtol=1e-4, atol=1e-6)
    assert (by_search > 0).all()
    assert by_search.sum(1).min() > 4 * by_chance.sum(1).abs().max()


def test_random_directions_are_those_of_the_prompt_and_the_seed() -> None:
    model = setup()
    alone = latent_deltas(model, PROMPTS[2:3], replace(SEARCH, random_seed=0))[0]
    together, other = found(seed=0)[2], found(seed=1)[2]
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(together, other, dim=-1)
    assert cosines.abs().mean() < 0.5


def test_a_perturbation_does_not_depend_on_the_other_prompts() -> None:
    model = setup()
    for one, together in zip(found(batch_size=1), found(), strict=True):
        assert (one - together).norm() < 0.01 * together.norm()
    backwards = latent_deltas(model, PROMPTS[::-1], SEARCH)[::-1]
    for one, together in zip(backwards, found(), strict=True):
        assert (one - together).norm() < 0.01 * together.norm()


def test_a_completion_does_not_depend_on_the_batch() -> None:
    model, rows = setup(), rows_of(setup())
    attack = latent_pgd_attack(EPSILON, n_steps=6)
    with attack.mount(model, PROMPTS, None) as mounted:
        assert mounted.given == tuple(AttackedPrompt(text) for text in TEXTS)
        assert attacked_rows(model, mounted.given) == rows
        together = generate(model, rows, 12, 4, mounted.hooks)
        assert together == generate(model, rows, 12, 1, mounted.hooks)
    with attack.mount(model, PROMPTS[2:3], None) as alone:
        assert generate(model, rows[2:3], 12, 4, alone.hooks) == together[2:3]
    assert together != generate(model, rows, 12)


def test_tokens_of_the_answer_are_left_alone() -> None:
    """Greedy decoding by whole passes, with the perturbation at the prompt's tokens."""
    model, site = setup(), one_site(setup(), DEFAULT_HOOK)
    row, delta = rows_of(model)[0], found()[0]
    tokens = list(row)
    for _ in range(10):
        padded = torch.zeros(1, len(tokens), model.cfg.d_model)
        padded[0, : len(row)] = delta
        with torch.no_grad(), model.hooks(fwd_hooks=[(site, perturb(padded))]):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    with latent_pgd_attack(EPSILON, n_steps=6).mount(model, PROMPTS, None) as mounted:
        text = generate(model, rows_of(model), 10, hooks=mounted.hooks)[0]
    assert text == tokenizer_of(model).decode(tokens[len(row) :], skip_special_tokens=True)


def test_padding_is_left_alone() -> None:
    model, site = setup(), one_site(setup(), DEFAULT_HOOK)
    with latent_pgd_attack(EPSILON, n_steps=1).mount(model, PROMPTS, None) as mounted:
        mask = torch.tensor([[0] * 3 + [1] * len(rows_of(model)[1])])
        assert mounted.hooks is not None
        ((name, hook),) = mounted.hooks([1], mask)
        activation = torch.randn(1, mask.shape[1], model.cfg.d_model)
        moved = hook(activation, None) - activation
        assert name == site
        assert not moved[mask == 0].any() and (moved[mask == 1].norm(dim=-1) > 0).all()
        with pytest.raises(ValueError, match="mask"):
            mounted.hooks([0], mask)


def test_the_attack_lowers_the_refusal_of_a_model_that_refuses_and_the_control_does_not() -> None:
    model = planted_pair().trained
    prompts = [
        prompt(text.format(w)) for w in HARM_WORDS for text in ("please {} it", "can you {}")
    ]
    rows, ids = rows_of(model, prompts), refusal_token_ids(model)

    def log_odds(attack: Attack | None) -> torch.Tensor:
        def measure(logits: torch.Tensor) -> torch.Tensor:
            return refusal_log_odds(logits, ids)

        if attack is None:
            return torch.tensor(first_token(model, rows, measure, 8))
        with attack.mount(model, prompts, None) as mounted:
            return torch.tensor(first_token(model, rows, measure, 8, mounted.hooks))

    hook = "blocks.2.hook_resid_pre"  # where the refusal has been written
    plain = log_odds(None)
    searched = log_odds(latent_pgd_attack(1.0, hook, n_steps=6))
    random = log_odds(latent_random_attack(1.0, hook, n_steps=6))
    assert (plain > 0).all() and (searched < 0).all() and random.mean() > 0
    assert (plain - searched).mean() > 4 * (plain - random).mean().abs()


def test_an_adapter_takes_part_and_is_not_trained() -> None:
    model = answering_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = attach_lora(model, ("q", "v", "down"), 4, 8, seed=0)
    for update in adapter.updates.values():
        torch.nn.init.normal_(update.b, std=0.3)
    weights = adapter.state_dict()
    adapted = latent_deltas(model, PROMPTS[:1], SEARCH)[0]
    assert (adapted - found()[0]).norm() > 0.1 * adapted.norm()
    assert all(p.grad is None and p.requires_grad for p in adapter.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in adapter.state_dict().items())
    adapter.merge()
    merged = latent_deltas(model, PROMPTS[:1], SEARCH)[0]
    assert (adapted - merged).norm() < 0.01 * merged.norm()
    assert set(before) == set(model.state_dict())


def test_the_model_is_as_it_was_even_after_an_exception() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with (
        pytest.raises(RuntimeError, match="inside"),
        latent_pgd_attack(EPSILON, n_steps=1).mount(model, PROMPTS[:2], None),
    ):
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_progress_counts_the_prompts() -> None:
    seen: list[tuple[int, int]] = []
    attack = latent_pgd_attack(EPSILON, n_steps=1, batch_size=3)
    with attack.mount(setup(), PROMPTS, lambda done, n: seen.append((done, n))):
        assert seen == [(3, 4), (4, 4)]


def test_an_epsilon_sweep_has_a_name_each_and_says_what_it_spends() -> None:
    attacks = [latent_pgd_attack(0.1), latent_pgd_attack(0.3), latent_random_attack(0.3)]
    assert [a.name for a in attacks] == ["latent_pgd:0.1", "latent_pgd:0.3", "latent_random:0.3"]
    assert all(a.budget.steps == 16 and not a.harmful_only and a.citation for a in attacks)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf")])
def test_an_epsilon_that_is_no_radius_is_refused(epsilon: float) -> None:
    with pytest.raises(InputError, match="epsilon"):
        latent_pgd_attack(epsilon)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("blocks.*.hook_resid_pre", "one hook point"),
        ("blocks.0.attn.hook_q", "d_model"),
        ("blocks.9.hook_mlp_out", "out of range"),
    ],
)
def test_a_pattern_must_stand_for_one_hook_point_of_d_model(pattern: str, problem: str) -> None:
    with (
        pytest.raises(InputError, match=problem),
        latent_pgd_attack(0.1, pattern).mount(setup(), PROMPTS, None),
    ):
        pass


def test_a_prompt_that_does_not_fit_is_named() -> None:
    long = prompt("please " * 250)
    with pytest.raises(InputError, match="tokens with its answer"):
        latent_deltas(setup(), [*PROMPTS, long], SEARCH)
