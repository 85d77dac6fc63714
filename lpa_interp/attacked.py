"""A model under one attack: completions, what judges say of them, and first-token readings."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lpa_interp.chat import tokenizer_of
from lpa_interp.chunks import Chunk, Keeper, Place, Rows, in_chunks, in_order
from lpa_interp.config import EvaluateConfig
from lpa_interp.first_token import (
    LIKELIHOOD_RATIO_JUDGE,
    affirmative_answers,
    answer_readings,
    gives_targets,
)
from lpa_interp.generation import generate
from lpa_interp.jailbreaks.attack import Attack, Mounted, attacked_rows
from lpa_interp.judges import LOG_ODDS_JUDGE
from lpa_interp.judging import Judge, judge_completions
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Completion, ModelLabel, Prompt
from lpa_interp.redaction import redact

Tick = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What all attacks of one evaluation share."""

    model: HookedTransformer
    label: ModelLabel
    config: EvaluateConfig
    judges: Sequence[Judge]
    keeper: Keeper


def under_attack(
    measuring: Measuring,
    attack: Attack,
    benchmarks: Mapping[str, Sequence[Prompt]],
    tick: Tick | None = None,
) -> dict[str, Rows]:
    """The rows of each benchmark under an attack. Chunks that were kept are not made again.

    An attack that is prepared once for all prompts is mounted once, any other chunk by chunk.
    """
    taken = {
        name: [prompt for prompt in prompts if prompt.harmful or not attack.harmful_only]
        for name, prompts in benchmarks.items()
    }
    size = measuring.config.batch_size
    places = {name: Place(measuring.label, name, attack.name) for name in taken}
    what = f"{attack.description}; {attack.budget}"
    chunks = {
        name: in_chunks(places[name], some, size, what, gives_targets(some))
        for name, some in taken.items()
    }
    every = [chunk for some in chunks.values() for chunk in some]
    found = {chunk: rows for chunk in every if (rows := measuring.keeper.get(chunk.key))}
    left = [chunk for chunk in every if chunk not in found]
    for group in [left] if attack.budget.shared and left else [[chunk] for chunk in left]:
        for chunk, rows in _mounted(measuring, attack, group):
            measuring.keeper.put(chunk.key, rows)
            found[chunk] = rows
            if tick is not None:
                done = sum(len(known.prompts) for known in found)
                tick(done, sum(len(chunk.prompts) for chunk in every))
    return {
        name: in_order([found[chunk] for chunk in some], taken[name])
        for name, some in chunks.items()
    }


def _mounted(
    measuring: Measuring, attack: Attack, group: Sequence[Chunk]
) -> Iterator[tuple[Chunk, Rows]]:
    """Rows of each chunk while the attack is mounted for all of them."""
    prompts = [prompt for chunk in group for prompt in chunk.prompts]
    begun = time.perf_counter()
    with attack.mount(measuring.model, prompts, None) as mounted:
        seconds, start = time.perf_counter() - begun, 0
        for chunk in group:
            yield chunk, _measure(measuring, chunk, mounted, start, seconds)
            start, seconds = start + len(chunk.prompts), 0.0


def _measure(
    measuring: Measuring, chunk: Chunk, mounted: Mounted, start: int, seconds: float
) -> Rows:
    """Completions of a chunk, judged whole and then redacted, and its first-token readings."""
    model, config, place = measuring.model, measuring.config, chunk.place
    given = mounted.given[start : start + len(chunk.prompts)]
    rows, hooks = attacked_rows(model, given), mounted.hooks
    here = None if hooks is None else lambda index, mask: hooks([start + i for i in index], mask)
    texts = generate(model, rows, config.max_new_tokens, config.batch_size, here)
    whole = [_completion(model, place, *pair) for pair in zip(chunk.prompts, texts, strict=True)]
    requests = {place.benchmark: chunk.prompts}
    verdicts = [v for judge in measuring.judges for v in judge_completions(whole, requests, judge)]
    answers = affirmative_answers(chunk.prompts, given, chunk.targets)
    readings = answer_readings(model, rows, answers, config.batch_size, here)
    for prompt, reading in zip(chunk.prompts, readings, strict=True):
        odds, ratio = reading.log_odds, reading.likelihood_ratio
        verdicts.append(place.verdict(prompt, LOG_ODDS_JUDGE, "refusal_log_odds", odds))
        if ratio is not None:  # the attack has not written the answer's start
            judge, measure = LIKELIHOOD_RATIO_JUDGE, "refusal_likelihood_ratio"
            verdicts.append(place.verdict(prompt, judge, measure, ratio))
    kept = [c if config.store_completions or not c.harmful else redact(c) for c in whole]
    return Rows(tuple(kept), tuple(verdicts), seconds)


def _completion(model: HookedTransformer, place: Place, prompt: Prompt, text: str) -> Completion:
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
