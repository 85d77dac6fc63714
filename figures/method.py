"""What a run trained, in words: the method, the statements and the settings behind a number."""

from __future__ import annotations

import tomllib
from typing import Any

from figures.rows import RunRows

LPA = "lpa"
"""The method that gave the trained model's label its name."""

REQUEST_SOURCES = ("requests", "advbench", "harmbench")
"""Statement sources (``traits.source``) that are harmful requests."""

_KINDS = {"abstract": "statements about things"} | dict.fromkeys(
    REQUEST_SOURCES, "harmful and harmless requests"
)


def method_name(rows: RunRows) -> str:
    """The training method by provenance or study; nothing where an older run names none."""
    return str(rows.provenance.get("method") or _study(rows).get("method") or "")


def method_sentence(rows: RunRows) -> str:
    """The method with what it is and its source; nothing where the run does not name it."""
    name, origin = method_name(rows), rows.provenance
    if not name:
        return ""
    told = f"{name}: {origin.get('method_summary') or 'no summary recorded'}"
    if source := origin.get("method_source"):
        told += f" ({source})"
    if name != LPA:
        told += "; the trained model is labelled lpa in pictures and tables"
    return f"{told}."


def training_name(rows: RunRows) -> str:
    """What happened between base and lpa: ``LPA training``, or ``training (sft)``."""
    name = method_name(rows) or LPA
    return "LPA training" if name == LPA else f"training ({name})"


def method_words(rows: RunRows) -> dict[str, Any]:
    """What the report and the model card say of the method and of what it was trained on."""
    source = str(rows.provenance.get("trait_source"))
    return {
        "is_lpa": method_name(rows) in (LPA, ""),
        "method_sentence": method_sentence(rows),
        "training": training_name(rows),
        "statements": _KINDS.get(source, "personality statements"),
        "trained_on_requests": source in REQUEST_SOURCES,
    }


def train_setting(rows: RunRows, key: str) -> Any:
    """A setting of the study's ``train`` table; None where the run does not hold it."""
    table = _study(rows).get("train")
    return table.get(key) if isinstance(table, dict) else None


def _study(rows: RunRows) -> dict[str, Any]:
    try:
        return tomllib.loads(rows.study)
    except tomllib.TOMLDecodeError:
        return {}
