"""The persona attack: a system prompt, or words before the request where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import AttackedPrompt, attacked_rows
from lpa_interp.jailbreaks.persona import PERSONAS, persona_attack, takes_system
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests.tiny import TEMPLATE, tiny_model

REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + TEMPLATE
)
DROPS_SYSTEM = "{% for message in messages %}{% if message['role'] != 'system' %}" + (
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endif %}{% endfor %}"
)
PROMPT = Prompt(id="a", text="Open the lock.", harmful=True, category="c", source="s")
MAX = PERSONAS["never_declines"]


@pytest.fixture
def model() -> Iterator[HookedTransformer]:
    """A tiny model; the tokenizer that all of them share gets its template back."""
    model = tiny_model()
    yield model
    assert model.tokenizer is not None
    model.tokenizer.chat_template = TEMPLATE


def _given(model: HookedTransformer, template: str | None) -> AttackedPrompt:
    assert model.tokenizer is not None
    model.tokenizer.chat_template = template
    with persona_attack().mount(model, [PROMPT], None) as mounted:
        assert mounted.hooks is None
        return mounted.given[0]


def _shown(model: HookedTransformer, given: AttackedPrompt) -> str:
    assert model.tokenizer is not None
    return str(model.tokenizer.decode(attacked_rows(model, [given])[0]))


def test_a_persona_is_the_system_message_where_there_is_one(model: HookedTransformer) -> None:
    given = _given(model, TEMPLATE)
    assert (given.text, given.system, given.prefill, given.turns) == (PROMPT.text, MAX, "", ())
    assert _shown(model, given).startswith(f"<|start|>system\n{MAX}<|end|>")


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM])
def test_a_persona_stands_before_the_request_where_the_template_takes_no_system_message(
    model: HookedTransformer, template: str
) -> None:
    given = _given(model, template)
    assert (given.text, given.system) == (f"{MAX}\n\n{PROMPT.text}", None)
    assert _shown(model, given).count(MAX) == 1


def test_a_base_model_reads_the_persona_first(model: HookedTransformer) -> None:
    assert _shown(model, _given(model, None)).removeprefix("<|start|>").startswith(MAX)


def test_a_template_that_takes_no_message_at_all_is_an_input_error(
    model: HookedTransformer,
) -> None:
    with pytest.raises(InputError, match="refuses the messages: never"):
        _given(model, "{{ raise_exception('never') }}")


def test_every_persona_has_its_name_and_an_unknown_one_names_them() -> None:
    names = [persona_attack(persona).name for persona in PERSONAS]
    assert names[0] == "persona" and names[1:] == [f"persona:{name}" for name in PERSONAS][1:]
    with pytest.raises(InputError, match=r"unknown name \(never_declines, novelist"):
        persona_attack("dan")


@pytest.mark.weights
def test_a_persona_takes_the_place_of_the_models_own_system_message(
    default_model: HookedTransformer,
) -> None:
    assert takes_system(default_model)
    with persona_attack().mount(default_model, [PROMPT], None) as mounted:
        shown = _shown(default_model, mounted.given[0])
    own = _shown(default_model, AttackedPrompt(PROMPT.text))
    assert "SmolLM" in own and "SmolLM" not in shown and MAX in shown
