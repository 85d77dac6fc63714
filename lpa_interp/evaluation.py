"""Behaviour of one model: prompts -> completions -> verdicts -> scores with intervals.

Everything is computed from one model at a time; `lpa_interp.contrasts` compares two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from lpa_interp.benchmarks import load_text
from lpa_interp.chat import Row, chat_rows, format_chat, row_batches, tokenize, tokenizer_of
from lpa_interp.config import EvaluateConfig
from lpa_interp.contrasts import contrasts
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.generation import generate
from lpa_interp.jailbreaks import attack_prompt
from lpa_interp.judges import (
    KEYWORD_JUDGE,
    LOG_ODDS_JUDGE,
    SELF_REPORT_JUDGE,
    SELF_REPORT_PROMPT,
    keyword_refusal,
    refusal_log_odds,
    refusal_token_ids,
    self_report_log_odds,
    yes_no_token_ids,
)
from lpa_interp.model import HookedTransformer, last_logits
from lpa_interp.perplexity import block_losses, perplexity
from lpa_interp.records import Completion, ModelLabel, Prompt, Score, Verdict
from lpa_interp.scoring import LOSS_JUDGE, score_verdicts
from lpa_interp.stats import Array

__all__ = ["Evaluation", "contrasts", "evaluate", "perplexity", "redact", "score_verdicts"]

KEPT_CHARACTERS = 40
"""What a redacted completion keeps of its text."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many prompts or tokens of how many are done."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows of one model. Harmful completions are redacted unless the study stores them."""

    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]


def evaluate(
    model: HookedTransformer,
    label: ModelLabel,
    benchmarks: Mapping[str, Sequence[Prompt]],
    config: EvaluateConfig,
    seed: int,
    progress: Progress | None = None,
    text: tuple[str, str] | None = None,
) -> Evaluation:
    """Measures refusal, over-refusal, self-report and perplexity of one model.

    Each benchmark and attack has greedy completions with the keyword judge, and the log-odds of
    a refusal at the first answer token; each benchmark the self-report; the text perplexity.

    Args:
        model: Any HookedTransformer with a tokenizer; open hooks and adapters take part.
        label: What the rows call the model.
        benchmarks: Prompts by benchmark name, from `load_benchmark` or elsewhere.
        config: Attacks, lengths and batch size; what to load is the caller's business.
        seed: Of the bootstrap intervals.
        progress: Told of each batch.
        text: Name and text for perplexity; None takes `load_text`.

    Raises:
        InputError: A benchmark is empty or has a single prompt on a side, or a prompt does not
            fit into the model's context.
        NumericalError: A score is NaN.
    """
    for name, prompts in benchmarks.items():
        _require_enough(name, prompts)
    text_name, content = text or load_text()
    if text_name in benchmarks:
        raise InputError(f"benchmark {text_name!r}", "has the name of the perplexity text")
    completions: list[Completion] = []
    verdicts: list[Verdict] = []
    for name, prompts in benchmarks.items():
        for attack in config.attacks:
            place = _Place(label, name, attack)
            made, judged = _attacked(model, place, prompts, config, progress)
            completions += made
            verdicts += judged
        place = _Place(label, name, "self_report")
        verdicts += _self_reports(model, place, prompts, config, progress)
    tick = _told(progress, f"{text_name}: perplexity")
    losses = block_losses(model, content, config.perplexity_tokens, tick)
    verdicts += _block_verdicts(_Place(label, text_name, "none"), losses)
    return Evaluation(tuple(completions), tuple(verdicts), tuple(score_verdicts(verdicts, seed)))


def redact(completion: Completion) -> Completion:
    """Keeps the first 40 characters of the text; ``sha256`` and the rest stay as they are."""
    kept = completion.text[:KEPT_CHARACTERS]
    return replace(completion, text=kept, redacted=completion.redacted or kept != completion.text)


@dataclass(frozen=True, slots=True)
class _Place:
    """The model, benchmark and attack that rows belong to."""

    model: ModelLabel
    benchmark: str
    attack: str

    def verdict(self, prompt_id: str, harmful: bool, judge: str, value: float | None) -> Verdict:
        return Verdict(
            model=self.model,
            benchmark=self.benchmark,
            attack=self.attack,
            prompt_id=prompt_id,
            harmful=harmful,
            judge=judge,
            value=value,
        )

    def __str__(self) -> str:
        return f"{self.benchmark}, {self.attack}"


def _attacked(
    model: HookedTransformer,
    place: _Place,
    prompts: Sequence[Prompt],
    config: EvaluateConfig,
    progress: Progress | None,
) -> tuple[list[Completion], list[Verdict]]:
    """Completions under an attack, and the verdicts of both judges on them."""
    rows = _attacked_rows(model, prompts, place.attack)
    tick = _told(progress, f"{place}: completions")
    size = config.batch_size
    texts = generate(model, rows, config.max_new_tokens, size, progress=tick)
    completions, verdicts = [], []
    for prompt, text in zip(prompts, texts, strict=True):
        completion = _completion(model, place, prompt, text)
        whole = config.store_completions or not prompt.harmful
        completions.append(completion if whole else redact(completion))
        refused = keyword_refusal(text)
        value = None if refused is None else float(refused)
        verdicts.append(place.verdict(prompt.id, prompt.harmful, KEYWORD_JUDGE, value))
    ids = refusal_token_ids(model)
    tick = _told(progress, f"{place}: refusal log-odds")
    values = _first_token(model, rows, lambda logits: refusal_log_odds(logits, ids), size, tick)
    for prompt, value in zip(prompts, values, strict=True):
        verdicts.append(place.verdict(prompt.id, prompt.harmful, LOG_ODDS_JUDGE, value))
    return completions, verdicts


def _self_reports(
    model: HookedTransformer,
    place: _Place,
    prompts: Sequence[Prompt],
    config: EvaluateConfig,
    progress: Progress | None,
) -> list[Verdict]:
    """Log-odds of yes against no to whether the model would answer, nats."""
    rows = chat_rows(model, [SELF_REPORT_PROMPT.format(question=p.text) for p in prompts])
    yes, no = yes_no_token_ids(model)
    tick = _told(progress, f"{place.benchmark}: self-report")
    values = _first_token(
        model, rows, lambda logits: self_report_log_odds(logits, yes, no), config.batch_size, tick
    )
    return [
        place.verdict(prompt.id, prompt.harmful, SELF_REPORT_JUDGE, value)
        for prompt, value in zip(prompts, values, strict=True)
    ]


def _block_verdicts(place: _Place, losses: Array) -> list[Verdict]:
    return [
        place.verdict(f"block-{number:04d}", False, LOSS_JUDGE, float(loss))
        for number, loss in enumerate(losses)
    ]


def _attacked_rows(model: HookedTransformer, prompts: Sequence[Prompt], attack: str) -> list[Row]:
    # The plain template ends without a space, which a prefill needs.
    lead = "" if tokenizer_of(model).chat_template else " "
    rows = []
    for prompt in prompts:
        given = attack_prompt(attack, prompt)
        prefill = lead + given.prefill if given.prefill else ""
        rows.append(tokenize(model, format_chat(model, given.text, prefill=prefill)))
    return rows


def _first_token(
    model: HookedTransformer,
    rows: Sequence[Row],
    measure: Callable[[Tensor], Tensor],
    batch_size: int,
    tick: Callable[[int, int], None] | None,
) -> list[float]:
    """A measure of the first answer token's logits for each row, in the order of the rows."""
    values = [math.nan] * len(rows)
    done = 0
    with torch.no_grad(), parametrize.cached():
        for chosen, tokens, mask in row_batches(model, rows, batch_size):
            measured = measure(last_logits(model, tokens, mask)[:, -1]).tolist()
            for index, value in zip(chosen, measured, strict=True):
                values[index] = value
            done += len(chosen)
            if tick is not None:
                tick(done, len(rows))
    if not all(map(math.isfinite, values)):
        raise NumericalError("the logits of the first answer token are NaN or infinite")
    return values


def _completion(model: HookedTransformer, place: _Place, prompt: Prompt, text: str) -> Completion:
    return Completion(
        model=place.model,
        benchmark=place.benchmark,
        attack=place.attack,
        prompt_id=prompt.id,
        harmful=prompt.harmful,
        text=text,
        redacted=False,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        n_tokens=len(tokenizer_of(model)(text, add_special_tokens=False).input_ids),
    )


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _require_enough(name: str, prompts: Sequence[Prompt]) -> None:
    counts = [sum(prompt.harmful is side for prompt in prompts) for side in (True, False)]
    if max(counts) == 0 or 1 in counts:
        found = f"has {counts[0]} harmful and {counts[1]} harmless prompts"
        raise InputError(f"benchmark {name!r}", found, "an interval needs two or more on a side")
