"""The words under the probe sweep."""

from __future__ import annotations

from collections.abc import Sequence

from figures.probe_choice import NESTED, SELECTIVITY, swept_measure
from figures.style import in_order
from figures.wording import listing, n_text
from lpa_interp.records import ProbeScore


def caption(every: Sequence[ProbeScore], scores: Sequence[ProbeScore], measure: str) -> str:
    """The caption of the sweep: ``scores`` are drawn, ``every`` is in the file."""
    folds = " or ".join(str(n) for n in sorted({s.n_folds for s in scores}))
    groups = listing(str(n) for n in sorted({s.n_groups for s in scores}))
    told = (
        f"Cross-validated probe score by layer ({folds} folds that keep the {groups} facets "
        f"whole, {n_text(s.n for s in scores)} texts). Coloured bands are the 95 % intervals of "
        "the score over facets. Grey is the control: the same procedure with labels permuted by "
        "facet, with the central 95 % of its repetitions; the dotted line is chance. "
    )
    measures = {s.measure for s in scores}
    if measure + NESTED in measures:
        told += (
            "In the shaded lane the layer was chosen without the texts that score it (nested "
            "cross-validation): that score is not biased by the choice, the highest of a line is. "
        )
    if measure + SELECTIVITY in measures:
        told += (
            "Selectivity is the score of probes that saw every facet in training, minus that of "
            "probes for a random label per facet: at 0 they may only tell facets apart. "
        )
    told += (
        "Look for: coloured lines clear of the grey band. A grey line away from chance means "
        "that the procedure leaks, and then the coloured one proves nothing."
    )
    if measure + NESTED not in measures:
        told += (
            " The best layer is found by looking at all of them, so its score is biased upwards."
        )
    others = listing(_others(every, scores))
    return told + (f" Not drawn, but in probes/scores.jsonl: {others}." if others else "")


def _others(every: Sequence[ProbeScore], drawn: Sequence[ProbeScore]) -> list[str]:
    """Measures, and targets at a single layer, that are in the file and not in the picture."""
    measure = swept_measure(every)
    targets = in_order(s.target for s in drawn)
    return in_order(
        s.measure.replace("_", " ") if s.target in targets else s.target
        for s in every
        if not (s.measure.startswith(measure) and s.target in targets)
        and not s.measure.endswith(SELECTIVITY)
    )
