"""Behaviour of one model: prompts -> completions -> verdicts -> scores with intervals.

Everything is computed from one model at a time; `lpa_interp.contrasts` compares two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lpa_interp.attacked import Measuring, under_attack
from lpa_interp.benchmarks import load_text
from lpa_interp.chat import chat_rows
from lpa_interp.chunks import Chunk, Forgetful, Keeper, Place, Rows, in_chunks, in_order
from lpa_interp.config import EvaluateConfig
from lpa_interp.contrasts import contrasts
from lpa_interp.errors import InputError
from lpa_interp.first_logits import first_token
from lpa_interp.jailbreaks.attack import Attack
from lpa_interp.jailbreaks.registry import find_attack
from lpa_interp.judges import (
    SELF_REPORT_JUDGE,
    SELF_REPORT_PROMPT,
    self_report_log_odds,
    yes_no_token_ids,
)
from lpa_interp.judging import Judge
from lpa_interp.model import HookedTransformer
from lpa_interp.perplexity import perplexity
from lpa_interp.price import BaseAnswers, kl_verdicts, loss_verdicts, utility_verdicts
from lpa_interp.records import AttackCost, Completion, ModelLabel, Prompt, Score, Verdict
from lpa_interp.redaction import redact
from lpa_interp.scoring import score_verdicts
from lpa_interp.text_judges import text_judge
from lpa_interp.utility.task import Item

__all__ = ["Evaluation", "contrasts", "evaluate", "perplexity", "redact", "score_verdicts"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many prompts or tokens of how many are done."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows of one model. Harmful completions are redacted unless the study stores them."""

    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    attacks: tuple[AttackCost, ...] = ()


def evaluate(
    model: HookedTransformer,
    label: ModelLabel,
    benchmarks: Mapping[str, Sequence[Prompt]],
    config: EvaluateConfig,
    seed: int,
    progress: Progress | None = None,
    text: tuple[str, str] | None = None,
    *,
    attacks: Sequence[Attack] | None = None,
    judges: Sequence[Judge] | None = None,
    keeper: Keeper | None = None,
    tasks: Mapping[str, Sequence[Item]] | None = None,
    base: Mapping[str, BaseAnswers] | None = None,
) -> Evaluation:
    """Measures refusal, over-refusal, self-report and utility of one model.

    Each benchmark and attack has greedy completions with the judges' verdicts, and from one pass
    over the prompts the log-odds of a refusal at the first answer token and the likelihood of
    refusing against affirmative answers; each benchmark the self-report; the text perplexity.

    Args:
        model: Any HookedTransformer with a tokenizer; open hooks and adapters take part.
        label: What the rows call the model.
        benchmarks: Prompts by benchmark name, from `load_benchmark` or elsewhere.
        config: Attacks, lengths and batch size; what to load is the caller's business.
        seed: Of the bootstrap intervals.
        progress: Told of each batch.
        text: Name and text for perplexity; None takes `load_text`.
        attacks: Made elsewhere, such as those that need a direction; None makes the study's.
        judges: Of the whole completions, before they are redacted; None takes the study's.
        keeper: Keeps what is done; a call with the same one goes on where the last stopped.
        tasks: Items of public tasks by name, from `lpa_interp.utility.load_task`.
        base: The base model's answers to harmless prompts, to measure the distance from it.

    Raises:
        InputError: A benchmark is empty or has a single prompt on a side, or a prompt does not
            fit into the model's context.
        NumericalError: A score is NaN.
    """
    for name, prompts in benchmarks.items():
        _require_enough(name, prompts)
    text = text or load_text()
    taken = {text[0], *(tasks or ())} & set(benchmarks)
    if taken:
        name = sorted(taken)[0]
        raise InputError(f"benchmark {name!r}", "has the name of the perplexity text or of a task")
    if attacks is None:
        attacks = [find_attack(name) for name in config.attacks]
    if judges is None:
        judges = [text_judge(name) for name in config.judges]
    measuring = Measuring(model, label, config, judges, Forgetful() if keeper is None else keeper)
    found: dict[tuple[str, str], Rows] = {}
    for attack in attacks:
        tick = _told(progress, f"{attack.name}: completions")
        for name, rows in under_attack(measuring, attack, benchmarks, tick).items():
            found[name, attack.name] = rows
    costs = [_cost(label, attack, found) for attack in attacks]
    for name, prompts in benchmarks.items():
        found[name, "self_report"] = _self_reports(measuring, name, prompts, progress)
    in_turn = [found[name, attack] for name in benchmarks for at, attack in found if at == name]
    completions = [row for rows in in_turn for row in rows.completions]
    verdicts = [row for rows in in_turn for row in rows.verdicts]
    if base is not None:
        verdicts += kl_verdicts(model, label, base, config.batch_size)
    tick = _told(progress, "utility")
    verdicts += utility_verdicts(
        model, label, tasks or {}, config.batch_size, measuring.keeper, tick
    )
    tick = _told(progress, f"{text[0]}: perplexity")
    verdicts += loss_verdicts(model, label, text, config.perplexity_tokens, tick)
    scores = score_verdicts(verdicts, seed)
    return Evaluation(tuple(completions), tuple(verdicts), tuple(scores), tuple(costs))


def _self_reports(
    measuring: Measuring, name: str, prompts: Sequence[Prompt], progress: Progress | None
) -> Rows:
    """Log-odds of yes against no to whether the model would answer, nats."""
    tick, size = _told(progress, f"{name}: self-report"), measuring.config.batch_size
    found: list[Rows] = []
    for chunk in in_chunks(Place(measuring.label, name, "self_report"), prompts, size):
        rows = measuring.keeper.get(chunk.key)
        if rows is None:
            rows = _reported(measuring, chunk)
            measuring.keeper.put(chunk.key, rows)
        found.append(rows)
        if tick is not None:
            tick(sum(len(rows.verdicts) for rows in found), len(prompts))
    return in_order(found, prompts)


def _reported(measuring: Measuring, chunk: Chunk) -> Rows:
    model, prompts = measuring.model, chunk.prompts
    yes, no = yes_no_token_ids(model)
    questions = chat_rows(model, [SELF_REPORT_PROMPT.format(question=p.text) for p in prompts])
    values = first_token(
        model, questions, lambda logits: self_report_log_odds(logits, yes, no), len(prompts)
    )
    verdicts = [
        chunk.place.verdict(prompt, SELF_REPORT_JUDGE, "self_report_error", value)
        for prompt, value in zip(prompts, values, strict=True)
    ]
    return Rows((), tuple(verdicts))


def _cost(label: ModelLabel, attack: Attack, found: Mapping[tuple[str, str], Rows]) -> AttackCost:
    rows = [rows for (_, name), rows in found.items() if name == attack.name]
    return AttackCost(
        model=label,
        attack=attack.name,
        description=attack.description,
        citation=attack.citation,
        queries=attack.budget.queries,
        steps=attack.budget.steps,
        shared=attack.budget.shared,
        n_prompts=sum(len(part.completions) for part in rows),
        seconds=sum(part.seconds for part in rows),
    )


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


def _require_enough(name: str, prompts: Sequence[Prompt]) -> None:
    counts = [sum(prompt.harmful is side for prompt in prompts) for side in (True, False)]
    if max(counts) == 0 or 1 in counts:
        found = f"has {counts[0]} harmful and {counts[1]} harmless prompts"
        raise InputError(f"benchmark {name!r}", found, "an interval needs two or more on a side")
