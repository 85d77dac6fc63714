from __future__ import annotations

from functools import cache

import pytest
import torch

from lpa_interp.errors import InputError
from lpa_interp.first_logits import first_token
from lpa_interp.generation import generate
from lpa_interp.hooks import ablation
from lpa_interp.jailbreaks.ablation import ablation_attack, random_ablation_attack
from lpa_interp.jailbreaks.attack import Attack, AttackedPrompt, attacked_rows
from lpa_interp.judges import refusal_log_odds, refusal_token_ids
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests.planted import HARM_WORDS, HARMLESS_WORDS, refusing_model

PROMPTS = [
    Prompt(id=word, text=f"please {word} it", harmful=harmful, category="c", source="s")
    for words, harmful in ((HARM_WORDS, True), (HARMLESS_WORDS, False))
    for word in words
]
HARMFUL = torch.tensor([prompt.harmful for prompt in PROMPTS])


@cache
def planted() -> tuple[HookedTransformer, torch.Tensor]:
    model, direction, _ = refusing_model()
    return model, direction


def log_odds(attack: Attack | None = None) -> torch.Tensor:
    """Log-odds of a refusal at the first answer token of each prompt."""
    model, ids = planted()[0], refusal_token_ids(planted()[0])

    def measure(logits: torch.Tensor) -> torch.Tensor:
        return refusal_log_odds(logits, ids)

    rows = attacked_rows(model, [AttackedPrompt(prompt.text) for prompt in PROMPTS])
    if attack is None:
        return torch.tensor(first_token(model, rows, measure, 5))
    with attack.mount(model, PROMPTS, None) as mounted:
        assert attacked_rows(model, mounted.given) == rows
        return torch.tensor(first_token(model, rows, measure, 5, mounted.hooks))


def test_ablating_the_planted_direction_undoes_refusal_and_a_random_one_does_not() -> None:
    plain = log_odds()
    gap = plain[HARMFUL].mean() - plain[~HARMFUL].mean()
    own = log_odds(ablation_attack("ablate_own_refusal", planted()[1], "own"))
    assert gap > 2
    assert own[HARMFUL].mean() < plain[~HARMFUL].mean() + 0.1 * gap
    for seed in range(4):
        random = log_odds(random_ablation_attack(seed))
        assert random[HARMFUL].mean() > plain[HARMFUL].mean() - 0.1 * gap


def test_it_holds_while_the_answer_is_written() -> None:
    model, direction = planted()
    attack = ablation_attack("ablate_base_refusal", direction, "base")
    with attack.mount(model, PROMPTS, None) as mounted:
        rows = attacked_rows(model, mounted.given)
        texts = generate(model, rows, 8, 5, mounted.hooks)
        assert texts == generate(model, rows, 8, 1, mounted.hooks)
    assert texts == generate(model, rows, 8, hooks=ablation(model, direction))
    refused = [text for text, one in zip(texts, PROMPTS, strict=True) if one.harmful]
    plain = generate(model, rows[: len(refused)], 8)
    assert all(one != other for one, other in zip(plain, refused, strict=True))


def test_the_model_is_as_it_was_even_after_an_exception() -> None:
    model, direction = planted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack = ablation_attack("ablate_own_refusal", direction, "own")
    with pytest.raises(RuntimeError, match="inside"), attack.mount(model, PROMPTS, None):
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_random_direction_is_a_function_of_the_seed() -> None:
    first, same, other = (log_odds(random_ablation_attack(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert [random_ablation_attack(seed).name for seed in (0, 1)] == [
        "ablate_random",
        "ablate_random:1",
    ]


@pytest.mark.parametrize(
    "direction", [torch.zeros(32), 2 * torch.ones(32), torch.full((32,), torch.nan)]
)
def test_a_direction_that_is_no_unit_vector_is_refused(direction: torch.Tensor) -> None:
    with pytest.raises(InputError, match="a unit vector"):
        ablation_attack("ablate_own_refusal", direction, "own")


def test_a_direction_of_another_width_is_refused() -> None:
    attack = ablation_attack("ablate_base_refusal", torch.eye(8)[0], "base")
    with (
        pytest.raises(InputError, match="d_model is 32"),
        attack.mount(planted()[0], PROMPTS, None),
    ):
        pass
