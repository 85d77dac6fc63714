"""A short supervised run: an adapter learns the answers of a few examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lpa_interp.chat import Row, completion_row, stack_rows, tokenizer_of
from lpa_interp.errors import NumericalError
from lpa_interp.lora import LoraAdapter
from lpa_interp.losses import label_log_probs
from lpa_interp.model import HookedTransformer, unembed

TARGETS = ("q", "k", "v", "o", "up", "down")
"""The weights that the run's adapters change, as in latent adversarial training."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer to learn, as token rows."""

    prompt: Row
    answer: Row


@runtime_checkable
class RunLength(Protocol):
    """What a run is told: its steps, the examples per step, and AdamW's step size."""

    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102


def own_answer(model: HookedTransformer, prompt: Row, text: str, max_tokens: int) -> Example:
    """A completion of at most ``max_tokens`` as an answer to learn.

    One that filled its length was cut, so it must not teach the model to stop there.
    """
    answer = completion_row(model, text, end=False)
    return Example(prompt, answer if len(answer) >= max_tokens else completion_row(model, text))


def supervised_run(
    model: HookedTransformer,
    adapter: LoraAdapter,
    examples: Sequence[Example],
    config: RunLength,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Trains the adapter on the examples' answers; returns the loss of each step.

    AdamW, linear warm-up over the first tenth of the steps, constant after it; gradients are
    clipped at norm 1. Examples are drawn in shuffled passes.

    Raises:
        NumericalError: The loss is not finite.
    """
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=config.learning_rate, weight_decay=0.0)
    warm_up = max(1, config.steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (s + 1) / warm_up))
    rng = random.Random(seed)
    queue: list[Example] = []
    losses = []
    for step in range(config.steps):
        while len(queue) < config.batch_size:
            queue += rng.sample(list(examples), len(examples))
        batch, queue = queue[: config.batch_size], queue[config.batch_size :]
        with adapter.shared():
            loss = answer_loss(model, batch)
            loss.backward()
        if not torch.isfinite(loss):
            raise NumericalError(f"supervised run: the loss is not finite at step {step + 1}")
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, config.steps)
    return losses


def answer_loss(model: HookedTransformer, batch: Sequence[Example]) -> Tensor:
    """Mean cross entropy over the answers' tokens, nats."""
    pad, device = tokenizer_of(model).pad_token_id, model.cfg.device
    tokens, mask = stack_rows([e.prompt + e.answer for e in batch], pad, device)
    width = max(len(example.answer) for example in batch)
    lengths = torch.tensor([len(example.answer) for example in batch], device=tokens.device)
    wanted = torch.arange(width, device=tokens.device) >= width - lengths[:, None]
    resid = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers)
    # Only the positions that predict an answer token are unembedded.
    logits = unembed(model, resid[:, -width - 1 : -1][wanted][None])
    return -label_log_probs(logits, tokens[:, -width:][wanted][None]).mean()
