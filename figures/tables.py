"""Tables of the report and the model card: strings only, ready to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from figures.behaviour import place_of
from figures.rows import RunRows
from figures.sites import norm_unit, relative_norm, units_of
from figures.style import finite, in_order, models_in
from figures.verdict import direction
from figures.wording import (
    change_range,
    change_text,
    count_of,
    duration,
    fixed,
    judge_label,
    judges_text,
    level_text,
    listing,
    measure_of,
    p_text,
    range_text,
    sentence_case,
    significant,
    value_text,
)
from lpa_interp.records import AttackSite, Contrast, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A table of cells; a cell is a main text and a smaller note under it."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[tuple[str, str]]]
    note: str = ""


def behaviour_tables(rows: RunRows) -> list[TextTable]:
    """One table per measure: a line per benchmark, attack, judge and side."""
    models = models_in(rows.scores)
    tables = []
    for measure in in_order(score.measure for score in rows.scores):
        cell = [s for s in rows.scores if s.measure == measure]
        title = measure_of(measure).label
        judges = len({score.judge for score in cell}) > 1
        tables.append(
            TextTable(
                title=sentence_case(title),
                head=["benchmark, attack", "side", *models, "base to lpa, paired"],
                lines=[_behaviour_line(key, cell, rows, judges) for key in _keys(cell)],
                note=_note(measure, cell, rows),
            )
        )
    return tables


def _note(measure: str, cell: list[Score], rows: RunRows) -> str:
    tests = in_order(c.method for c in rows.contrasts if c.measure == measure)
    paired = f" Paired test: {listing(tests)}." if tests else ""
    judge = sentence_case(judges_text(cell))
    return f"{judge + '. ' if judge else ''}Under each value {level_text(cell)} and n.{paired}"


def _keys(scores: list[Score]) -> list[tuple[str, str, str, str]]:
    return in_order((s.benchmark, s.attack, s.judge, s.side) for s in scores)


def _behaviour_line(
    key: tuple[str, str, str, str], cell: list[Score], rows: RunRows, judges: bool
) -> list[tuple[str, str]]:
    benchmark, attack, judge, side = key
    place = place_of(benchmark, attack) + (f" [{judge_label(judge)}]" if judges else "")
    line = [(place, ""), (side, "")]
    for model in models_in(rows.scores):
        found = [s for s in cell if (s.benchmark, s.attack, s.judge, s.side) == key]
        score = next((s for s in found if s.model == model), None)
        line.append(_score_cell(score))
    tests = [
        c
        for c in rows.contrasts
        if (c.first, c.second, c.measure, c.side) == ("base", "lpa", cell[0].measure, side)
    ]
    here = [c for c in tests if (c.benchmark, c.attack, c.judge) == (benchmark, attack, judge)]
    line.append(_contrast_cell(here[0], len(tests)) if here else ("no paired test", ""))
    return line


def _score_cell(score: Score | None) -> tuple[str, str]:
    if score is None:
        return "not measured", ""
    undecided = f", {score.n_undecided} undecided" if score.n_undecided else ""
    interval = range_text(score.measure, score.low, score.high)
    return value_text(score.measure, score.value), f"{interval};\nn = {score.n}{undecided}"


def _contrast_cell(test: Contrast, family: int) -> tuple[str, str]:
    words = {"none": ";\nno detectable change", "suggestive": ";\nnot settled"}
    interval = change_range(test.measure, test.low, test.high)
    return (
        change_text(test.measure, test.difference),
        f"{interval}; {p_text(test.p_value)}; n = {test.n}"
        + words.get(direction(test, family), ""),
    )


def site_table(rows: RunRows) -> TextTable | None:
    """Whether the constraint was binding at each site, at the last step and over all of them."""
    if not rows.sites:
        return None
    last = max(site.step for site in rows.sites)
    sites = [site for site in rows.sites if site.step == last]
    head = ["hook point", "radius", "activation norm", "mean norm", f"at the bound, step {last}"]
    return TextTable(
        title="The constraint at each site",
        head=head,
        lines=[_site_line(site, rows.sites) for site in sites],
        note=f"Set: {listing(in_order(s.constraint for s in sites))}. Radius and norms in "
        "activation units: the activation norm is the median over attacked tokens without the "
        "attack, the mean norm that of the perturbation. At the bound: share of "
        f"{units_of(sites)} within 1 % of it.",
    )


def _site_line(site: AttackSite, every: Sequence[AttackSite]) -> list[tuple[str, str]]:
    unit = norm_unit([site])
    share = _percent(relative_norm(site, unit))
    shares = finite(s.bound_fraction for s in every if s.hook_name == site.hook_name)
    over = f"{_percent(mean(shares))} over {count_of(len(shares), 'step')}" if shares else ""
    return [
        (site.hook_name, ""),
        (significant(site.radius), ""),
        (significant(site.activation_norm), ""),
        (significant(site.mean_norm), f"{share} of the {unit.replace('_', ' ')}"),
        (_percent(site.bound_fraction), over),
    ]


def _percent(share: float | None) -> str:
    found = finite([share])
    return f"{fixed(100 * found[0], 1)} %" if found else "not available"


def stage_table(rows: RunRows) -> TextTable | None:
    """What every stage cost, and their sum."""
    if not rows.stages:
        return None
    lines = [
        [
            (stage.stage, ""),
            (duration(stage.seconds), ""),
            (_memory(stage.peak_memory_mib), ""),
            ("from the cache" if stage.reused else "computed", ""),
        ]
        for stage in rows.stages
    ]
    total = sum(stage.seconds or 0.0 for stage in rows.stages)
    peak = max((stage.peak_memory_mib or 0.0 for stage in rows.stages), default=0.0)
    lines.append([("all stages", ""), (duration(total), ""), (_memory(peak), ""), ("", "")])
    return TextTable(title="Stages", head=["stage", "time", "peak memory", "made"], lines=lines)


def _memory(mib: float | None) -> str:
    return "not available" if mib is None else f"{fixed(mib, 0)} MiB"


def chosen_table(rows: RunRows) -> TextTable | None:
    """The refusal direction chosen for each model, with its scores."""
    chosen = [c for c in rows.candidates if c.selected]
    if not chosen:
        return None
    head = ["model", "layer", "token", "bypass, nats", "induce, nats", "KL, nats"]
    lines = [
        [
            (c.model, ""),
            (str(c.layer), ""),
            (fixed(c.position, 0), ""),
            *((fixed(v, d), "") for v, d in ((c.bypass, 2), (c.induce, 2), (c.kl, 3))),
        ]
        for c in chosen
    ]
    return TextTable(title="Refusal direction chosen", head=head, lines=lines)
