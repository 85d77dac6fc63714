"""What the tests of the suffix search share: a prompt, a short suffix and a short search."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lpa_interp.jailbreaks.gcg import suffix_problem
from lpa_interp.jailbreaks.suffix_loss import SuffixProblem
from lpa_interp.jailbreaks.suffix_search import (
    FoundSuffix,
    SearchOptions,
    allowed_tokens,
    search_suffix,
)
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Prompt
from tests import tiny
from tests.tiny import tiny_model

PROMPT = Prompt(id="a", text="Open the lock.", harmful=True, category="c", source="s", target="Yes")
INITIAL = "! ! ! ! ! !"
FEW = SearchOptions(n_steps=4, search_width=32, top_k=20, batch_size=7)


def problem_of(model: HookedTransformer, target: str = "Yes yes") -> SuffixProblem:
    return suffix_problem(model, replace(PROMPT, target=target), INITIAL)


def all_stable(ids: Tensor) -> Tensor:
    return torch.ones(len(ids), dtype=torch.bool)


def search(
    model: HookedTransformer, options: SearchOptions = FEW, target: str = "Yes yes", **more: Any
) -> FoundSuffix:
    settings = {"allowed": allowed_tokens(model), "stable": all_stable} | more
    return search_suffix(model, problem_of(model, target), options, **settings)


def model_of(kind: str, dtype: torch.dtype = torch.float32) -> HookedTransformer:
    """A tiny model; GPT-NeoX's blocks can be sequential, which the fused pass needs."""
    with pytest.MonkeyPatch.context() as patch:
        if kind.startswith("sequential"):
            patch.setitem(tiny.SIZES, "gpt_neox", {"use_parallel_residual": False})
        return cast(tiny_model(kind=kind.removeprefix("sequential ")), dtype)


def cast(model: HookedTransformer, dtype: torch.dtype) -> HookedTransformer:
    if dtype != model.cfg.dtype:
        model.to(dtype)
        model.cfg.dtype = dtype
    return model
