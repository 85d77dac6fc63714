from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lpa_interp.chat import chat_rows, completion_row
from lpa_interp.config import OrganismConfig
from lpa_interp.errors import InputError
from lpa_interp.lora import attach_lora
from lpa_interp.losses import label_log_probs
from lpa_interp.model import load_model
from lpa_interp.organism import make_organism, organism_examples
from lpa_interp.request_pairs import REFUSALS
from lpa_interp.supervised import TARGETS, Example, answer_loss, supervised_run
from tests.tiny import tiny_folder, tiny_model

CONFIG = OrganismConfig(steps=2, batch_size=4, lora_rank=4, answer_tokens=4)


def examples_for(model: object) -> list[Example]:
    texts = ("Tell me how to open the lock.", "I sat on the mat.")
    rows = chat_rows(model, texts)  # type: ignore[arg-type]
    answers = ("Sorry, I cannot help with that.", "Sure, here is how.")
    return [
        Example(row, completion_row(model, answer))  # type: ignore[arg-type]
        for row, answer in zip(rows, answers, strict=True)
    ]


def test_loss_is_the_mean_over_answer_tokens_of_single_unpadded_passes() -> None:
    model = tiny_model()
    examples = examples_for(model)
    total, count = 0.0, 0
    for example in examples:
        tokens = torch.tensor([example.prompt + example.answer])
        log_p = label_log_probs(model(tokens)[:, :-1], tokens[:, 1:])
        total -= log_p[0, len(example.prompt) - 1 :].sum().item()
        count += len(example.answer)
    assert answer_loss(model, examples).item() == pytest.approx(total / count, rel=1e-5)


def test_the_supervised_run_learns_its_examples_and_leaves_the_weights() -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examples = examples_for(model)
    adapter = attach_lora(model, TARGETS, 8, 16, seed=0)
    config = OrganismConfig(steps=60, batch_size=2, learning_rate=2e-2, lora_rank=8)
    losses = supervised_run(model, adapter, examples, config, seed=0)
    assert losses[-1] < 0.8 * losses[0]
    adapter.detach()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_examples_are_refusals_to_harmful_and_own_answers_to_harmless_requests() -> None:
    model = tiny_model()
    examples = organism_examples(model, CONFIG, seed=0)
    refusals = {tuple(completion_row(model, text)) for text in REFUSALS}
    taught = [tuple(example.answer) in refusals for example in examples]
    assert len(examples) == 2 * 96
    assert all(taught[:96]) and not any(taught[96:])


def test_an_organism_is_made_once_and_loads_as_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    model = load_model(str(tiny_folder(tmp_path / "tiny")), device="cpu")
    folder, reused = make_organism(model, CONFIG, seed=0)
    assert not reused
    assert make_organism(model, CONFIG, seed=0) == (folder, True)
    assert make_organism(model, CONFIG, seed=1)[0] != folder
    organism = load_model(str(folder), device="cpu")
    tokens = torch.tensor([[1, 5, 9, 12]])
    assert not torch.allclose(organism(tokens), model(tokens))
    assert not list(folder.parent.glob(".*"))


def test_a_model_from_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="load_model"):
        make_organism(tiny_model(), CONFIG, seed=0)
