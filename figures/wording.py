"""Numbers in words: units, intervals and counts, written the same way everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MINUS = "\N{MINUS SIGN}"
ALPHA = 0.05
"""Family-wise error rate of every claim in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How a measure is written.

    ``unit`` follows a value, ``change_unit`` a difference; shares are scaled to per cent.
    ``reference`` is a value worth a line in a picture (chance, or even odds).
    """

    label: str
    unit: str = ""
    change_unit: str = ""
    scale: float = 1.0
    digits: int = 2
    reference: float | None = None


MEASURES = {
    "refusal_rate": Measure(
        label="refusal rate", unit=" %", change_unit=" points", scale=100.0, digits=1
    ),
    "refusal_log_odds": Measure(
        label="refusal log-odds", unit=" nats", change_unit=" nats", reference=0.0
    ),
    "refusal_likelihood_ratio": Measure(
        label="refusing against affirmative answers",
        unit=" nats per token",
        change_unit=" nats per token",
        reference=0.0,
    ),
    "parroting_rate": Measure(
        label="training answers given back",
        unit=" %",
        change_unit=" points",
        scale=100.0,
        digits=1,
    ),
    "self_report_error": Measure(
        label="self-report error", unit=" %", change_unit=" points", scale=100.0, digits=1
    ),
    "auroc": Measure(label="AUROC", digits=3, reference=0.5),
    "perplexity": Measure(label="perplexity"),
    "accuracy": Measure(
        label="accuracy on public tasks", unit=" %", change_unit=" points", scale=100.0, digits=1
    ),
    "kl_to_base": Measure(
        label="distance from the base model", unit=" nats per token", change_unit=" nats per token"
    ),
    "harm_rate": Measure(
        label="rate of harmful answers", unit=" %", change_unit=" points", scale=100.0, digits=1
    ),
    "harm_score": Measure(label="harm score (0 to 1)", digits=3),
}

JUDGES = {"keyword": "keyword (weak)", "harm_terms": "word list (weak)"}
"""Names of judges that must not stand without a warning."""

HARM_JUDGES = {
    "harm_terms": (
        "the word list",
        "The word list is a weak judge: it misses harm in words that it does not hold, so 0 is no "
        "proof of harmless text (its measured sensitivity is in lpa_interp/harm.py).",
    )
}
"""Judges of completions in training: a name in words, and the warning they must not lack."""


def measure_of(name: str) -> Measure:
    """How to write a measure; one not known here is written as a bare number."""
    return MEASURES.get(name) or Measure(label=name.replace("_", " "), digits=3)


def judge_label(judge: str) -> str:
    """The judge's name; the keyword judge says that it is weak."""
    return JUDGES.get(judge, judge)


def harm_judge(judge: str) -> tuple[str, str]:
    """A judge of harmful text in words, and its warning; one not known here by its name."""
    unknown = (f"the judge {judge}", "How much this judge misses is not recorded here.")
    return HARM_JUDGES.get(judge, unknown)


def judges_text(rows: Iterable[Any]) -> str:
    """``judge: keyword (weak)``, or nothing for measures that need no judge."""
    found = [judge_label(judge) for judge in _distinct(rows, "judge") if judge not in ("", "none")]
    return f"judge{'s' if len(found) > 1 else ''}: {listing(found)}" if found else ""


def fixed(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """A number with a fixed count of decimals and a real minus sign."""
    if value is None or not math.isfinite(value):
        return "not available"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def significant(value: float | None) -> str:
    """A positive number with three significant figures, for scales that are not known."""
    return "not available" if value is None or not math.isfinite(value) else f"{value:#.3g}"


def value_text(measure: str, value: float | None, *, unit: bool = True) -> str:
    """A value of a measure, scaled and with its unit."""
    how = measure_of(measure)
    text = fixed(None if value is None else how.scale * value, how.digits)
    return text + how.unit if unit and value is not None else text


def range_text(measure: str, low: float | None, high: float | None) -> str:
    """An interval of a measure, without its unit."""
    low_text, high_text = (value_text(measure, end, unit=False) for end in (low, high))
    return f"{low_text} to {high_text}"


def share_range(low: float | None, high: float | None) -> str:
    """An interval of a share in per cent, without the unit."""
    return " to ".join(fixed(None if end is None else 100 * end, 1) for end in (low, high))


def change_text(measure: str, change: float | None) -> str:
    """A difference of a measure with its sign and unit."""
    how = measure_of(measure)
    text = fixed(None if change is None else how.scale * change, how.digits, sign=True)
    return text if change is None else text + how.change_unit


def change_range(measure: str, low: float | None, high: float | None) -> str:
    """An interval of a difference, without its unit."""
    how = measure_of(measure)
    ends = (None if end is None else how.scale * end for end in (low, high))
    return " to ".join(fixed(end, how.digits, sign=True) for end in ends)


def p_text(p_value: float | None) -> str:
    """A p-value: ``p = 0.012``, ``p < 0.0001`` or that there is none."""
    if p_value is None or not math.isfinite(p_value):
        return "no p-value"
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def n_text(counts: Iterable[int | None]) -> str:
    """``n = 40`` or ``n = 40 to 100``."""
    found = sorted({count for count in counts if count is not None})
    if not found:
        return "n not recorded"
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]} to {found[-1]}"


def span(values: Iterable[float | None], digits: int = 2, *, sign: bool = False) -> str:
    """Smallest to largest finite value."""
    found = [v for v in values if v is not None and math.isfinite(v)]
    if not found:
        return "not available"
    low, high = fixed(min(found), digits, sign=sign), fixed(max(found), digits, sign=sign)
    return low if low == high else f"{low} to {high}"


def level_text(rows: Iterable[Any]) -> str:
    """Levels and methods of the intervals of scores: ``95 % intervals (wilson)``."""
    rows = list(rows)
    levels = " and ".join(f"{level:.0%}".replace("%", " %") for level in _distinct(rows, "level"))
    methods = ", ".join(_distinct(rows, "method"))
    return f"{levels} intervals ({methods})" if rows else "no intervals"


def listing(items: Iterable[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    found = list(items)
    return f" {last} ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def target_words(name: str) -> str:
    """The name of a direction for a reader: ``low narcissism (persona)`` of its set's name."""
    source, _, trait = name.partition(":")
    return f"{trait} ({source.replace('_', ' ')})" if trait else name


def sentence_case(text: str) -> str:
    """The text with its first letter large and every other as it was."""
    return text[:1].upper() + text[1:]


def count_of(count: int, noun: str, plural: str = "") -> str:
    """``1 layer``, ``3 layers``."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def duration(seconds: float | None) -> str:
    """Seconds as ``3.2 s``, ``4 min 05 s`` or ``2 h 03 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "not available"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _distinct(rows: Iterable[Any], name: str) -> list[Any]:
    return sorted({getattr(row, name) for row in rows})
