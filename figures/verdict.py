"""The verdict: what the paired tests of base against lpa allow to be said, by rule.

A change is claimed only where its interval excludes zero and its p-value survives the
Bonferroni correction over the comparisons (benchmarks and attacks) that answer the same
question. Everything else is "no detectable change", with the size that is not excluded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from figures.behaviour import place_of
from figures.questions import QUESTIONS, Question
from figures.rows import RunRows
from figures.style import finite
from figures.wording import (
    ALPHA,
    change_range,
    change_text,
    count_of,
    judges_text,
    measure_of,
    n_text,
    p_text,
    range_text,
    sentence_case,
    value_text,
)
from lpa_interp.records import Contrast, Score

State = Literal["rose", "fell", "mixed", "suggestive", "none", "untested"]
Tone = Literal["good", "bad", "neutral"]

BADGES: dict[State, str] = {
    "rose": "rose",
    "fell": "fell",
    "mixed": "mixed",
    "suggestive": "not settled",
    "none": "no detectable change",
    "untested": "not tested",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A question with its answer in words; ``evidence`` has numbers, n and intervals."""

    question: str
    measure: str
    state: State
    tone: Tone
    answer: str
    evidence: tuple[str, ...]
    counts: str
    """In how many comparisons the state was found: ``in 2 of 4 comparisons``."""

    @property
    def badge(self) -> str:
        """The state in words."""
        return BADGES[self.state]


def direction(contrast: Contrast, family: int = 1) -> State:
    """What one paired test allows to be said among ``family`` tests of the same question."""
    low, high = contrast.low, contrast.high
    if low is None or high is None:
        return "untested"
    if low <= 0 <= high:
        return "none"
    if contrast.p_value is None or contrast.p_value > ALPHA / family:
        return "suggestive"
    return "rose" if low > 0 else "fell"


def findings(rows: RunRows) -> list[Finding]:
    """The answer to every question, in the order of `QUESTIONS`."""
    return [_finding(rows, question) for question in QUESTIONS]


def disagreement(found: Sequence[Finding]) -> str:
    """A warning where the keyword judge and the log-odds move apart on a side, or nothing."""
    states = {
        (q.measure, q.side): finding.state for q, finding in zip(QUESTIONS, found, strict=True)
    }
    sides = [
        side
        for side in ("harmful", "harmless")
        if {states["refusal_rate", side], states["refusal_log_odds", side]} == {"rose", "fell"}
    ]
    if not sides:
        return ""
    return (
        f"The two measures of refusal part ways on {' and '.join(sides)} requests: the keyword "
        "judge reads whole completions, the log-odds only the first token, and an answer such as "
        "“I do not agree” opens like a refusal. The model may have learned the wording of the "
        "statements' answers rather than to refuse; read its completions before you believe either."
    )


def _finding(rows: RunRows, question: Question) -> Finding:
    known = {score.judge for score in rows.scores if score.measure == question.measure}
    scores = [score for score in rows.scores if question.asks(score, known)]
    pair = ("base", "lpa")
    tests = [c for c in rows.contrasts if question.asks(c, known) and (c.first, c.second) == pair]
    states = [direction(test, len(tests)) for test in tests]
    state = _overall(set(states))
    found = [s for s in BADGES if s in states]
    counts = {s: _of(states.count(s), len(tests)) for s in found}
    if tests:
        answer = "; ".join(f"{BADGES[s]} {counts[s]}" for s in found)
        groups = [[t for t, x in zip(tests, states, strict=True) if x == s] for s in found]
        evidence = [
            line for s, some in zip(found, groups, strict=True) for line in _lines(s, some, scores)
        ]
    else:
        answer, evidence = _without_tests(scores, question)
    judges = judges_text(scores)
    return Finding(
        question=question.text,
        measure=measure_of(question.measure).label + (f", {judges}" if judges else ""),
        state=state,
        tone=_tone(state, question),
        answer=f"{sentence_case(answer)}.",
        evidence=tuple(evidence),
        counts=counts.get(state, ""),
    )


def _tone(state: State, question: Question) -> Tone:
    if state not in ("rose", "fell", "mixed"):
        return "neutral"
    if question.wanted == "none":
        # A fall of something that should stay low is no harm.
        return "neutral" if state == "fell" else "bad"
    return "good" if state == question.wanted else "bad"


def _overall(found: set[State]) -> State:
    if {"rose", "fell"} <= found:
        return "mixed"
    order: tuple[State, ...] = ("rose", "fell", "suggestive", "none")
    return next((state for state in order if state in found), "untested")


def _of(some: int, all_tests: int) -> str:
    if all_tests == 1:
        return "in the one comparison made"
    return f"in {some} of {count_of(all_tests, 'comparison')}"


def _lines(state: State, tests: Sequence[Contrast], scores: Sequence[Score]) -> list[str]:
    """Claims one by one, nulls in one line with what they do not exclude."""
    if state == "none":
        return [_null_line(tests)]
    if state == "untested":
        return [f"{place_of(t.benchmark, t.attack)}: no interval, so no claim." for t in tests]
    tail = ""
    if state == "suggestive":
        tail = f"; the interval excludes 0, but p is above {ALPHA} / number of comparisons"
    return [
        f"{place_of(t.benchmark, t.attack)}: {_from_to(t, scores)}"
        f"{change_text(t.measure, t.difference)} (95 % interval "
        f"{change_range(t.measure, t.low, t.high)}, {p_text(t.p_value)}, n = {t.n}){tail}."
        for t in tests
    ]


def _from_to(test: Contrast, scores: Sequence[Score]) -> str:
    """The two values behind a difference, where one judge makes them unambiguous."""
    here = [s for s in scores if (s.benchmark, s.attack) == (test.benchmark, test.attack)]
    values = {s.model: s.value for s in here}
    if len({s.judge for s in here}) != 1 or not {"base", "lpa"} <= set(values):
        return ""
    base, lpa = (value_text(test.measure, values[model]) for model in ("base", "lpa"))
    return f"from {base} to {lpa}, "


def _null_line(tests: Sequence[Contrast]) -> str:
    measure = tests[0].measure
    low, high = min(t.low for t in tests), max(t.high for t in tests)
    found = sorted(finite(t.difference for t in tests))
    changes = [change_text(measure, change) for change in found[:1] + found[-1:]]
    told = " to ".join(dict.fromkeys(changes)) or "not available"
    several = len(tests) > 1
    where = "" if several else f"{place_of(tests[0].benchmark, tests[0].attack)}: "
    words = (
        f"{where}{told}, {'every' if several else 'the'} 95 % interval includes 0 "
        f"({'together ' if several else ''}{change_range(measure, low, high)}), "
        f"{n_text(t.n for t in tests)}. A change of that size is not excluded."
    )
    return sentence_case(words) if several else words


def _without_tests(scores: Sequence[Score], question: Question) -> tuple[str, list[str]]:
    """Without a paired test the values are told, and nothing is claimed."""
    cell = [s for s in scores if s.model in ("base", "lpa")]
    if not cell:
        return f"this run holds no {measure_of(question.measure).label} for this", []
    lines = [
        f"{s.model} on {place_of(s.benchmark, s.attack)}: {value_text(s.measure, s.value)} "
        f"({range_text(s.measure, s.low, s.high)}, n = {s.n})."
        for s in cell
    ]
    return "no paired test in this run, so no claim", lines


def headline(found: Sequence[Finding], training: str = "LPA training") -> str:
    """One sentence on refusal of harmful and of harmless requests after ``training``."""
    harmful, harmless = found[0].state, found[1].state
    if harmful == "untested":
        return (
            "This run holds no paired test of base against lpa on harmful requests, "
            "so it gives no verdict."
        )
    more, less = (f"the model refused harmful requests {how} often" for how in ("more", "less"))
    first = {
        "rose": f"After {training} {more} {found[0].counts}",
        "fell": f"After {training} {less} {found[0].counts}",
        "mixed": f"After {training} refusal of harmful requests rose in some comparisons and "
        "fell in others",
        "suggestive": "A change in refusal of harmful requests is not settled by this run",
        "none": f"No detectable change in refusal of harmful requests after {training}",
    }[harmful]
    also = "also " if harmful == "rose" else ""
    second = {
        "rose": f"it {also}refused harmless requests more often {found[1].counts}",
        "fell": f"it refused harmless requests less often {found[1].counts}",
        "mixed": "refusal of harmless requests rose in some comparisons and fell in others",
        "suggestive": "a change on harmless requests is not settled",
        "none": "no change was detectable on harmless requests",
        "untested": "harmless requests were not tested, so over-refusal is unknown",
    }[harmless]
    tail = ". The rise is not specific to harm." if (harmful, harmless) == ("rose", "rose") else "."
    return f"{first}; {second}{tail}"
