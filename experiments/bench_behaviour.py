"""The part of ``make bench`` on behaviour and on the inside: each against the plain way, in turn.

Completions against ``transformers.generate``, and the readings at the answer against one pass
for each; then `experiments.bench_inside`. Both sides run on the same rows on the same machine,
and a run whose results differ stops the bench.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from experiments.bench import ratios, show
from experiments.bench_inside import bench_inside
from experiments.turns import BATCH_SIZE, REPEATS, TOLERANCE, in_turn, require
from lpa_interp.benchmarks import load_benchmark, load_text
from lpa_interp.chat import (
    Row,
    chat_rows,
    completion_row,
    row_batches,
    stack_rows,
    stop_tokens,
    tokenizer_of,
)
from lpa_interp.first_token import AFFIRMATIVE, REFUSALS, answer_readings
from lpa_interp.generation import generate
from lpa_interp.hooks import ablation
from lpa_interp.judges import refusal_log_odds, refusal_token_ids
from lpa_interp.model import (
    HookedTransformer,
    last_logits,
    load_hugging_face,
    load_model,
    source_of,
)
from lpa_interp.sources import DEFAULT_MODEL

N_ROWS = 32
NEW_TOKENS = 24
PASSAGE_WORDS = (0, 0, 0, 40, 0, 0, 0, 160)
"""Words of text before each request in turn, in the rows of mixed lengths."""


def main(name: str) -> None:
    """Measures on a model: the embedded default one, or a Hugging Face folder."""
    model = load_model(name)
    bench_generation(model, "mixed lengths", mixed_rows(model, N_ROWS))
    rows = chat_rows(model, [prompt.text for prompt in load_benchmark("requests")])
    bench_generation(model, "requests", rows[:N_ROWS], hooked=True)
    bench_readings(model, rows[:BATCH_SIZE])
    bench_inside(model)


def mixed_rows(model: HookedTransformer, n: int) -> list[Row]:
    """Requests, some of them after a passage of text."""
    words, texts = load_text()[1].split(), []
    for index, prompt in enumerate(load_benchmark("requests")[:n]):
        size = PASSAGE_WORDS[index % len(PASSAGE_WORDS)]
        start = 37 * index % (len(words) - size)
        texts.append(" ".join([*words[start : start + size], prompt.text]))
    return chat_rows(model, texts)


def bench_generation(
    model: HookedTransformer,
    name: str,
    rows: Sequence[Row],
    new_tokens: int = NEW_TOKENS,
    repeats: int = REPEATS,
    hooked: bool = False,
) -> None:
    """Greedy completions: ours, by ``transformers.generate``, and ours with hooks open.

    The hooks of an ablation, of no direction: the same work and the same tokens.
    """
    source = source_of(model)
    assert source is not None
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    plain: Any = load_hugging_face(source.location, dtype)
    plain.to(model.cfg.device)
    nothing = ablation(model, torch.zeros(model.cfg.d_model, device=model.cfg.device))
    ways: dict[str, Callable[[], list[str]]] = {
        "plain": lambda: plain_completions(model, plain, rows, new_tokens),
        "ours": lambda: generate(model, rows, new_tokens, BATCH_SIZE),
    }
    if hooked:
        ways["hooks"] = lambda: generate(model, rows, new_tokens, BATCH_SIZE, hooks=nothing)
    times, found = in_turn(ways, repeats, model)
    for way, texts in found.items():
        differ = sum(a != b for a, b in zip(texts, found["plain"], strict=True))
        require(differ == 0, f"{differ} of {len(rows)} completions differ ({way})")
    what = f"{len(rows)} completions of {new_tokens} tokens, {name}"
    show(f"{what}: transformers.generate, s", times["plain"])
    show(f"{what}: ours, s", times["ours"])
    show(f"{what}: transformers.generate / ours", ratios(times["plain"], times["ours"]))
    if hooked:
        show(f"{what}: ours with the hooks of an ablation, s", times["hooks"])
        show(f"{what}: with hooks / transformers.generate", ratios(times["hooks"], times["plain"]))


def plain_completions(
    model: HookedTransformer, plain: Any, rows: Sequence[Row], new_tokens: int
) -> list[str]:
    """``transformers.generate`` on the rows as they come, in batches of the same size."""
    from transformers import GenerationConfig

    tokenizer, texts = tokenizer_of(model), []
    settings: Any = GenerationConfig  # its constructor has no types
    plain.generation_config = settings(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=stop_tokens(model),
        pad_token_id=tokenizer.pad_token_id,
    )
    for start in range(0, len(rows), BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        tokens, mask = stack_rows(batch, tokenizer.pad_token_id, model.cfg.device)
        with torch.no_grad():
            new = plain.generate(input_ids=tokens, attention_mask=mask)[:, tokens.shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def bench_readings(model: HookedTransformer, rows: Sequence[Row], repeats: int = REPEATS) -> None:
    """Refusal log-odds and likelihoods of all answers: one pass, or one for each of them."""
    answers = [completion_row(model, text, end=False) for text in (AFFIRMATIVE, *REFUSALS)]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "plain": lambda: np.stack([plain_readings(model, rows, a) for a in ([], *answers)]),
        "log-odds": lambda: plain_readings(model, rows, []),
        "ours": lambda: our_readings(model, rows),
    }
    times, found = in_turn(ways, repeats, model)
    require(np.abs(found["plain"] - found["ours"]).max() < TOLERANCE, "readings differ")
    what = f"log-odds and {len(answers)} answers to {len(rows)} prompts"
    show(f"{what}: a pass for each, s", times["plain"])
    show(f"{what}: ours, s", times["ours"])
    show(f"{what}: a pass for each / ours", ratios(times["plain"], times["ours"]))
    show(f"{what}: ours / log-odds alone", ratios(times["ours"], times["log-odds"]))


def our_readings(model: HookedTransformer, rows: Sequence[Row]) -> np.ndarray:
    """Log-odds, and log-likelihoods per token of each answer, [1 + n_answers, n]."""
    readings = answer_readings(model, rows, [AFFIRMATIVE] * len(rows), BATCH_SIZE)
    values = []
    for reading in readings:
        assert reading.affirmative is not None
        answers = (reading.affirmative, *reading.refusals)
        values.append([reading.log_odds, *(answer.per_token for answer in answers)])
    return np.array(values).T


def plain_readings(model: HookedTransformer, rows: Sequence[Row], answer: Row) -> np.ndarray:
    """Log-likelihood per token of one answer, or the refusal log-odds where it is empty, [n]."""
    ids, values, n = refusal_token_ids(model), np.empty(len(rows)), len(answer)
    for chosen, tokens, mask in row_batches(model, [[*row, *answer] for row in rows], BATCH_SIZE):
        with torch.no_grad():
            logits = last_logits(model, tokens, mask, n + 1).float()
        if not answer:
            values[chosen] = refusal_log_odds(logits[:, -1], ids).cpu().numpy()
            continue
        labels = tokens[:, -n:, None]
        log_p = logits[:, :-1].log_softmax(-1).gather(-1, labels)
        values[chosen] = log_p.mean((1, 2)).cpu().numpy()
    return values


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
