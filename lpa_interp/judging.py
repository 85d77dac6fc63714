"""Judging as a stage of its own: completions and prompts -> answers of a judge -> verdicts.

A judge reads completions that were made before; judging again generates nothing. Every judge is
one `Judge`: a function with its name, what it needs, where it comes from and what it cannot do.
A judge that cannot decide says so and why; that is never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.records import Completion, Judgement, Prompt, PromptSide, Verdict
from lpa_interp.runs import content_hash

SIDES: tuple[PromptSide, ...] = ("harmful", "harmless")
Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many completions of how many are judged."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a judge reads: a completion and, where the judge needs it, the request behind it.

    The request is the benchmark's own, without the words of an attack; a prefill that was put
    into the model's mouth is not part of the completion.
    """

    completion: Completion
    request: str


@dataclass(frozen=True, slots=True)
class JudgeAnswer:
    """A judge's answer: a value from 0 to 1, or None with the reason.

    ``failed`` says that the judge was not reached, so that it is worth asking again. ``parts``
    are the numbers that the value was made of.
    """

    value: float | None
    reason: str = ""
    failed: bool = False
    parts: Mapping[str, float] = field(default_factory=dict)


Decide = Callable[[Sequence[Exchange]], Iterable[tuple[int, JudgeAnswer]]]
"""The one type of all judges: gives the index of each exchange with its answer, in any order,
as soon as it has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A judge: what it is called, what it measures, what it needs and where it comes from.

    ``measure`` is one of `lpa_interp.scoring.MEASURES`. ``reads_text`` is off for a judge
    that needs no completion text (labels made elsewhere), and ``reads_request`` on for one that
    needs the request. ``sides`` are the requests that it is meant for. A ``slow`` judge's answers
    are kept one by one; ``settings`` is all that decides an answer beside the completion.
    """

    name: str
    measure: str
    decide: Decide
    citation: str
    limits: str
    reads_text: bool = True
    reads_request: bool = False
    sides: tuple[PromptSide, ...] = SIDES
    slow: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings_hash(self) -> str:
        """Of the judge's name and settings."""
        return content_hash({"judge": self.name, **self.settings})


def judge_completions(
    completions: Sequence[Completion], prompts: Mapping[str, Sequence[Prompt]], judge: Judge
) -> list[Verdict]:
    """Verdicts of one judge, one per completion and in the same order.

    Args:
        completions: Whole completions, such as those of `evaluate` with ``store_completions``.
        prompts: The prompts by benchmark; needed for judges that read the request.
        judge: Who judges.

    Raises:
        InputError: Completions are redacted or prompts are missing, and the judge needs them.
        NumericalError: The judge gave a value that is not finite.
    """
    found = {key_of(row): verdict_of(row) for row in judge_each(completions, prompts, judge)}
    return [found[key_of(completion)] for completion in completions]


def judge_each(
    completions: Sequence[Completion],
    prompts: Mapping[str, Sequence[Prompt]],
    judge: Judge,
    progress: Progress | None = None,
) -> Iterator[Judgement]:
    """Each answer as soon as the judge has given it, so that a caller can keep it.

    Raises:
        InputError: As `judge_completions`.
        NumericalError: The judge gave a value that is not finite.
        ValueError: The judge skipped a completion or answered one twice.
    """
    exchanges = _exchanges(completions, prompts, judge)
    left = set(range(len(exchanges)))
    for index, answer in judge.decide(exchanges):
        if index not in left:
            raise ValueError(f"{judge.name} answered completion {index} twice")
        left.remove(index)
        yield _judgement(completions[index], judge, answer)
        if progress is not None:
            progress(f"judge {judge.name}", len(exchanges) - len(left), len(exchanges))
    if left:
        raise ValueError(f"{judge.name} left out {len(left)} of {len(exchanges)} completions")


def one_by_one(decide: Callable[[str], float | None], undecided: str) -> Decide:
    """A judge of texts alone from a function of one text; ``undecided`` is the reason for None."""

    def decide_all(exchanges: Sequence[Exchange]) -> Iterator[tuple[int, JudgeAnswer]]:
        for index, exchange in enumerate(exchanges):
            value = decide(exchange.completion.text)
            yield index, JudgeAnswer(value, "" if value is not None else undecided)

    return decide_all


def key_of(row: Completion | Judgement | Verdict) -> tuple[str, str, str, str, bool]:
    """What tells one completion from another in a run."""
    return row.model, row.benchmark, row.attack, row.prompt_id, row.harmful


def verdict_of(judgement: Judgement) -> Verdict:
    """The verdict of a judge's answer."""
    return Verdict(
        model=judgement.model,
        benchmark=judgement.benchmark,
        attack=judgement.attack,
        prompt_id=judgement.prompt_id,
        harmful=judgement.harmful,
        judge=judgement.judge,
        measure=judgement.measure,
        value=judgement.value,
    )


def _exchanges(
    completions: Sequence[Completion], prompts: Mapping[str, Sequence[Prompt]], judge: Judge
) -> list[Exchange]:
    redacted = sum(completion.redacted for completion in completions)
    if judge.reads_text and redacted:
        raise InputError(
            f"judge {judge.name}",
            f"{redacted} of {len(completions)} completions are redacted to their first characters",
            "run lpa evaluate with evaluate.store_completions = true",
        )
    texts = {
        (name, prompt.id, prompt.harmful): prompt.text
        for name, found in prompts.items()
        for prompt in found
    }
    exchanges = []
    for completion in completions:
        key = (completion.benchmark, completion.prompt_id, completion.harmful)
        if judge.reads_request and key not in texts:
            place = f"benchmark {completion.benchmark}"
            mistake = f"prompt {completion.prompt_id!r} of the run is not in it"
            raise InputError(place, mistake, "the prompt set that the run was measured on")
        exchanges.append(Exchange(completion, texts.get(key, "")))
    return exchanges


def _judgement(completion: Completion, judge: Judge, answer: JudgeAnswer) -> Judgement:
    if answer.value is not None and not math.isfinite(answer.value):
        raise NumericalError(f"{judge.name} gave {answer.value} on {completion.prompt_id}")
    if answer.value is None and not answer.reason:
        raise ValueError(f"{judge.name} gave no reason for an undecided answer")
    return Judgement(
        model=completion.model,
        benchmark=completion.benchmark,
        attack=completion.attack,
        prompt_id=completion.prompt_id,
        harmful=completion.harmful,
        judge=judge.name,
        measure=judge.measure,
        value=answer.value,
        reason=answer.reason,
        failed=answer.failed,
        sha256=completion.sha256,
        settings=judge.settings_hash,
        parts=dict(answer.parts),
    )
