"""What behaviour was measured with: the attacks, and how alike prompts and training texts are."""

from __future__ import annotations

from figures.rows import RunRows
from figures.style import in_order
from figures.tables import TextTable
from figures.wording import duration, fixed
from lpa_interp.records import AttackCost, SetOverlap


def attack_table(rows: RunRows) -> TextTable | None:
    """Each attack with its source, what it may spend on a prompt, and what it took."""
    if not rows.attacks:
        return None
    lines = []
    for name in in_order(row.attack for row in rows.attacks):
        found = [row for row in rows.attacks if row.attack == name]
        took = sum(row.seconds for row in found)
        n = sum(row.n_prompts for row in found)
        lines.append(
            [
                (name, ""),
                (found[0].description, found[0].citation),
                (_budget(found[0]), ""),
                (duration(took), f"{n} prompts, {len(found)} models"),
            ]
        )
    head = ["attack", "what it does, source", "budget", "preparing it took"]
    return TextTable(title="Attacks", head=head, lines=lines)


def _budget(row: AttackCost) -> str:
    parts = [
        f"{row.queries} answers seen" if row.queries else "",
        f"{row.steps} steps" if row.steps else "",
    ]
    told = ", ".join(part for part in parts if part)
    if not told:
        return "none"
    return told + (" in all" if row.shared else " a prompt")


def overlap_table(rows: RunRows) -> TextTable | None:
    """How alike the training statements and the prompts of each benchmark are."""
    if not rows.set_overlaps:
        return None
    pairs = in_order((row.first, row.second) for row in rows.set_overlaps)
    lines = []
    for first, second in pairs:
        found = {
            row.measure: row
            for row in rows.set_overlaps
            if (row.first, row.second) == (first, second)
        }
        lines.append(
            [
                (f"{first} and {second}", ""),
                *(_matched(found.get(name)) for name in ("exact", "ngram_8")),
                *(_cosine(found.get(name)) for name in ("tfidf_cosine", "embedding_cosine")),
            ]
        )
    return TextTable(
        title="Training texts and prompts",
        head=["sets", "same text", "8 words in a row", "tf-idf cosine", "embedding cosine"],
        lines=lines,
        note="Counts are of the second set's texts that the first matches; cosines are with the "
        "nearest text of the first set. A high cosine means that the model was shown something "
        "like the prompts it is measured on.",
    )


def _matched(row: SetOverlap | None) -> tuple[str, str]:
    if row is None or row.n_matched is None:
        return "not measured", ""
    return f"{row.n_matched} of {row.n_measured}", ""


def _cosine(row: SetOverlap | None) -> tuple[str, str]:
    if row is None or row.mean is None or row.maximum is None:
        return "not measured", ""
    return f"mean {fixed(row.mean)}, largest {fixed(row.maximum)}", f"n = {row.n_measured}"
