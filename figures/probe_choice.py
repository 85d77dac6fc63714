"""Which of the probe scores are drawn and told: several kinds of them share one file."""

from __future__ import annotations

from collections.abc import Sequence

from figures.curves import hook_kind, swept
from figures.style import in_order
from lpa_interp.records import ProbeScore

NESTED, SELECTIVITY = "_nested", "_selectivity"
"""Endings of measures that are about another one."""
Line = tuple[str, int, str]
"""Target, position and kind of hook point."""


def swept_measure(scores: Sequence[ProbeScore]) -> str:
    """The measure that is drawn and told: AUROC, or the first where a run has no AUROC."""
    found = in_order(s.measure.removesuffix(NESTED).removesuffix(SELECTIVITY) for s in scores)
    return "auroc" if "auroc" in found or not found else str(found[0])


def drawn_scores(scores: Sequence[ProbeScore]) -> list[ProbeScore]:
    """The sweep of one measure with its nested scores and its selectivity.

    Control tasks are shown by the selectivity, which is the score's lead over them. Checks at a
    single layer are left out.
    """
    measure = swept_measure(scores)
    sweep = [s for s in scores if s.measure == measure and s.control in ("none", "shuffled")]
    names = {(s.target, s.method) for s in swept(sweep, key=lambda s: (s.target, s.method))}
    return [
        s
        for s in scores
        if (not names or (s.target, s.method) in names)
        and (
            s.measure in (measure + NESTED, measure + SELECTIVITY)
            or (s.measure == measure and s.control in ("none", "shuffled"))
        )
    ]


def line_of(score: ProbeScore, scores: Sequence[ProbeScore]) -> Line:
    """Where a score is drawn; a nested one, chosen among all hook points, with the first kind."""
    places = (s.hook_name for s in scores if not s.measure.endswith(NESTED))
    nested = score.measure.endswith(NESTED)
    hook_name = next(places, score.hook_name) if nested else score.hook_name
    return score.target, score.position, hook_kind(hook_name)
