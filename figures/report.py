"""The report and the model card: rows and pictures into two files that stand alone."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from figures import direction_findings, findings, training_findings
from figures.gallery import PICTURES, draw_rows
from figures.measured_with import attack_table, overlap_table
from figures.method import method_words, training_name
from figures.rows import RunRows, load_rows
from figures.style import FigureInfo, in_order, models_in
from figures.tables import behaviour_tables, chosen_table, site_table, stage_table
from figures.verdict import disagreement, headline
from figures.verdict import findings as answers
from figures.wording import ALPHA, judge_label, level_text, listing, measure_of, n_text
from lpa_interp.errors import InputError
from lpa_interp.runs import write_text

PAPERS = {
    "LPA": "https://arxiv.org/abs/2605.08496",
    "LAT": "https://arxiv.org/abs/2407.15549",
    "Arditi et al.": "https://arxiv.org/abs/2406.11717",
}

HUB_IDS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Hub ids of models that this project knows by a name of its own."""


def write_report(run: Path) -> Path:
    """Draws every picture, then writes ``report.html`` and ``README.md`` into the run.

    The report is one file without scripts or outside resources: style and pictures are
    inside. Both files hold scores only, never a prompt or a completion.

    Args:
        run: A run directory; rows that are absent are named in the report.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: ``run`` is no directory, a file in it is malformed, or cannot be written.
    """
    rows = load_rows(run)
    context = _context(rows, run, draw_rows(rows, run))
    report = run / "report.html"
    write_text(report, _environment(autoescape=True).get_template("report.html.j2").render(context))
    card = _environment(autoescape=False).get_template("model_card.md.j2").render(context)
    write_text(run / "README.md", card)
    return report


def _environment(*, autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("figures"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(markdown=_markdown, quoted=json.dumps, shown=_shown, tied=_tied)
    return environment


def _markdown(text: object) -> str:
    """Text from data as inert Markdown: no HTML, no table or emphasis characters, one line."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|#":
        escaped = escaped.replace(character, f"\\{character}")
    return " ".join(escaped.split())


def _tied(text: str) -> str:
    """Keeps ``n = 40``, ``p < 0.01`` and ``95 %`` on one line."""
    return re.sub(
        r"(?<=\b[np]) (?=[=<])|(?<=[=<]) (?=\d)|(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text
    )


def _shown(value: object) -> str:
    """A value of the provenance as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(v) for v in value) or "none"
    return "not recorded" if value in (None, "") else str(value)


def _context(rows: RunRows, run: Path, figures: list[FigureInfo]) -> dict[str, Any]:
    """Everything the two templates read."""
    found = answers(rows)
    origin = rows.provenance
    return {
        "name": origin.get("study_name") or run.resolve().name,
        "model": origin.get("model") or "not recorded",
        "origin": origin,
        "organism": origin.get("organism") is True,
        **method_words(rows),
        "headline": headline(found, training_name(rows)),
        "disagreement": disagreement(found),
        "findings": found,
        "measured": _measured(rows),
        "alpha": ALPHA,
        "papers": PAPERS,
        "figures": {figure.name: _embedded(figure) for figure in figures},
        "absent": [p for p in PICTURES if p.name not in {figure.name for figure in figures}],
        "tables": behaviour_tables(rows),
        "measured_with": [t for t in (attack_table(rows), overlap_table(rows)) if t],
        "chosen": chosen_table(rows),
        "stages": stage_table(rows),
        "attack": training_findings.attack_sentence(rows),
        "epsilon": training_findings.epsilon_sentence(rows),
        "harm": training_findings.harm_sentences(rows),
        "sites": site_table(rows),
        "probes": findings.probe_sentences(rows),
        "stability": direction_findings.stability_sentences(rows),
        "angles": findings.angle_sentences(rows),
        "other_traits": direction_findings.other_trait_sentences(rows),
        "overlaps": direction_findings.overlap_sentences(rows),
        "ablations": findings.ablation_sentences(rows),
        "features": findings.sae_sentences(rows),
        "skipped": [_pair(item) for item in origin.get("skipped") or []],
        "notes": [str(note) for note in origin.get("notes") or []],
        "limits": _limits(rows),
        "study": rows.study,
        "adapter_base": _adapter_base(run, str(origin.get("model") or "")),
    }


def _embedded(figure: FigureInfo) -> dict[str, str]:
    png, pdf, table = figure.files
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "alt": figure.alt,
        "source": f"data:image/png;base64,{data}",
        "pdf": f"figures/{pdf.name}",
        "csv": f"figures/{table.name}",
    }


def _pair(item: object) -> tuple[str, str]:
    """A skipped thing with its reason, however the provenance holds it."""
    if isinstance(item, list | tuple) and len(item) == 2:
        return str(item[0]), str(item[1])
    return _shown(item), "no reason recorded"


def _measured(rows: RunRows) -> str:
    """What the behaviour rows cover, in one sentence."""
    scores = rows.scores
    if not scores:
        return "This run holds no behaviour scores."
    attacks = in_order(s.attack for s in scores if s.attack not in ("", "none"))
    sizes = "; ".join(
        f"{measure_of(m).label} {n_text(s.n for s in scores if s.measure == m)}"
        for m in in_order(s.measure for s in scores)
    )
    return (
        f"Measured on {listing(in_order(s.benchmark for s in scores))}"
        f"{f' (requests put: {listing(attacks)})' if attacks else ''}, for "
        f"{listing(models_in(scores))}. Per score: {sizes}; {level_text(scores)}."
    )


def _limits(rows: RunRows) -> list[str]:
    """What the numbers cannot carry, from what the run holds."""
    limits = []
    seeds = in_order(score.seed for score in rows.scores)
    if len(seeds) == 1:
        limits.append(
            f"One training run with one seed ({seeds[0]}): the intervals cover the choice of "
            "prompts, not the luck of training. Another seed may give another answer."
        )
    if any("(weak)" in judge_label(score.judge) for score in rows.scores):
        limits.append(
            "The keyword judge is weak: it looks for refusal phrases, so it misses soft refusals "
            "and can take a hedged answer for a refusal. It says nothing of how harmful an "
            "answer is."
        )
    if not rows.contrasts:
        limits.append("There is no paired test of base against lpa, so no change is claimed.")
    if rows.candidates or rows.probe_scores:
        limits.append(
            "Layers and positions were chosen by looking at many; the score of a chosen one "
            "is biased upwards, and correlation along a direction is no cause."
        )
    if rows.qualities:
        tokens = listing(in_order(f"{q.n_training_tokens:,}" for q in rows.qualities))
        limits.append(
            f"The autoencoder saw {tokens} training tokens; a larger one may split these features "
            "or find others."
        )
    return limits


def _adapter_base(run: Path, model: str) -> str:
    """The Hub id or name of the base model; never a folder of the machine that trained."""
    path = run / "adapter" / "adapter_config.json"
    named = ""
    if path.exists():
        try:
            named = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"] or ""
        except (json.JSONDecodeError, KeyError, TypeError):
            raise InputError(path, "is not an adapter configuration") from None
    if named and not Path(named).is_absolute():
        return str(named)
    return HUB_IDS.get(model, model)
