from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lpa_interp.doctor as doctor
from lpa_interp.doctor import Check, agreement_tolerance, diagnose
from lpa_interp.errors import InputError
from tests.tiny import SIZES, tiny_folder, tiny_hugging_face, tiny_model


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["gpt2", *SIZES])
def test_every_architecture_passes_every_check(kind: str, dtype: str, tmp_path: Path) -> None:
    checks = diagnose(str(tiny_folder(tmp_path / kind, kind)), "cpu", dtype)
    assert [check for check in checks if not check.passed] == []
    assert len(checks) >= 7


def test_other_weights_fail_the_comparison_with_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_folder(tmp_path / "llama")
    monkeypatch.setattr(doctor, "load_hugging_face", lambda *_: tiny_hugging_face(seed=1))
    checks = by_name(diagnose(str(folder), "cpu"))
    failed = checks["agrees with Hugging Face"]
    assert not failed.passed
    assert failed.value is not None and failed.tolerance is not None
    assert failed.value > failed.tolerance
    assert checks["left padding changes nothing"].passed


def test_padding_that_leaks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = doctor.stack_rows

    def without_mask(*arguments: Any) -> Any:
        tokens, mask = stack(*arguments)
        return tokens, torch.ones_like(mask)

    monkeypatch.setattr(doctor, "stack_rows", without_mask)
    checks = by_name(diagnose(str(tiny_folder(tmp_path / "llama")), "cpu"))
    assert not checks["left padding changes nothing"].passed
    assert checks["agrees with Hugging Face"].passed


def test_nan_logits_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(*arguments: Any) -> Any:
        model = tiny_model()
        model.blocks[2].mlp.W_out.data[0, 0] = float("nan")
        return model

    monkeypatch.setattr(doctor, "load_model", spoiled)
    checks = by_name(diagnose("any"))
    assert not checks["finite logits"].passed
    assert not checks["batch agrees with single prompts"].passed


def test_a_doubled_or_missing_bos_fails() -> None:
    model = tiny_model()
    bos = model.tokenizer.bos_token_id
    assert doctor._bos(model, [[bos, 5, 6], [7, 8]]).passed
    assert not doctor._bos(model, [[bos, bos, 6]]).passed
    model.cfg.default_prepend_bos = True
    assert doctor._bos(model, [[bos, 5, bos, 6]]).passed
    assert not doctor._bos(model, [[bos, 5], [7, 8]]).passed
    assert not doctor._bos(model, [[bos, 5], [bos, bos, 8]]).passed


def test_a_base_model_passes_with_a_note_on_the_plain_format() -> None:
    model = tiny_model()
    tokenizer = model.tokenizer
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        check = doctor._template(model)
    finally:
        tokenizer.chat_template = template
    assert check.passed and "plain format" in check.detail
    assert "<|end|>" in doctor._template(model).detail


def test_a_short_attention_window_is_crossed(tmp_path: Path) -> None:
    hf_model = tiny_hugging_face("gemma2")
    hf_model.config.sliding_window = 32
    folder = tiny_folder(tmp_path / "gemma2", "gemma2")
    hf_model.config.save_pretrained(folder)
    checks = by_name(diagnose(str(folder), "cpu"))
    assert checks["agrees with Hugging Face past the window"].passed


def test_a_bad_name_is_an_input_error() -> None:
    for name in ("nonsense", "./nowhere", "missing.gguf"):
        with pytest.raises(InputError):
            diagnose(name)


def test_the_bfloat16_tolerance_is_eight_units_in_the_last_place() -> None:
    assert agreement_tolerance(torch.float32, 60.0) == 1e-3
    for largest in (2.5, 60.0):
        value = torch.tensor(largest, dtype=torch.bfloat16)
        unit = torch.nextafter(value, torch.tensor(1e9, dtype=torch.bfloat16)) - value
        assert agreement_tolerance(torch.bfloat16, largest) == 8 * unit.item()


@pytest.mark.weights
def test_the_default_model_passes_every_check(cache: Path) -> None:
    checks = diagnose("smollm2-135m-instruct", "cpu")
    assert [check for check in checks if not check.passed] == []
    assert "<|im_end|>" in by_name(checks)["chat template"].detail
