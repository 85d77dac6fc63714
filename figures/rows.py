"""Reads all rows of a run directory at once. An absent file gives no rows, not an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.records import (
    AblationEffect,
    ActivationShift,
    AttackCost,
    AttackSite,
    Contrast,
    DirectionAngle,
    DirectionStability,
    DoseEffect,
    FeatureOverlap,
    FeatureShift,
    HarmRate,
    MediatedShare,
    PatchEffect,
    ProbeScore,
    ProbeTransfer,
    Projection,
    RefusalCandidate,
    SaeQuality,
    Score,
    SetOverlap,
    StageTime,
    SubspaceAngle,
    TrainingStep,
    WatchedCompletion,
    WeightAlignment,
)
from lpa_interp.runs import read_rows

FILES: dict[str, tuple[str, type]] = {
    "training": ("train/log.jsonl", TrainingStep),
    "sites": ("train/sites.jsonl", AttackSite),
    "watched": ("train/watched.jsonl", WatchedCompletion),
    "harm_rates": ("train/harm_rates.jsonl", HarmRate),
    "scores": ("behaviour/scores.jsonl", Score),
    "contrasts": ("behaviour/contrasts.jsonl", Contrast),
    "attacks": ("behaviour/attacks.jsonl", AttackCost),
    "set_overlaps": ("behaviour/overlap.jsonl", SetOverlap),
    "probe_scores": ("probes/scores.jsonl", ProbeScore),
    "projections": ("probes/projections.jsonl", Projection),
    "candidates": ("probes/refusal_candidates.jsonl", RefusalCandidate),
    "angles": ("probes/angles.jsonl", DirectionAngle),
    "trait_angles": ("probes/trait_angles.jsonl", DirectionAngle),
    "ablations": ("probes/ablations.jsonl", AblationEffect),
    "transfer": ("probes/transfer.jsonl", ProbeTransfer),
    "stability": ("probes/stability.jsonl", DirectionStability),
    "subspace_angles": ("probes/subspace_angles.jsonl", SubspaceAngle),
    "weight_alignments": ("probes/weight_alignment.jsonl", WeightAlignment),
    "activation_shifts": ("probes/activation_shifts.jsonl", ActivationShift),
    "mediated_shares": ("probes/mediated_shares.jsonl", MediatedShare),
    "doses": ("probes/doses.jsonl", DoseEffect),
    "patches": ("probes/patches.jsonl", PatchEffect),
    "qualities": ("features/quality.jsonl", SaeQuality),
    "shifts": ("features/shifts.jsonl", FeatureShift),
    "overlaps": ("features/overlaps.jsonl", FeatureOverlap),
    "stages": ("stages.jsonl", StageTime),
}
"""Field of `RunRows` -> its file in the run directory and the type of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """Everything that the pictures and the report are made from."""

    training: list[TrainingStep] = field(default_factory=list)
    sites: list[AttackSite] = field(default_factory=list)
    watched: list[WatchedCompletion] = field(default_factory=list)
    harm_rates: list[HarmRate] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    contrasts: list[Contrast] = field(default_factory=list)
    attacks: list[AttackCost] = field(default_factory=list)
    set_overlaps: list[SetOverlap] = field(default_factory=list)
    probe_scores: list[ProbeScore] = field(default_factory=list)
    projections: list[Projection] = field(default_factory=list)
    candidates: list[RefusalCandidate] = field(default_factory=list)
    angles: list[DirectionAngle] = field(default_factory=list)
    trait_angles: list[DirectionAngle] = field(default_factory=list)
    ablations: list[AblationEffect] = field(default_factory=list)
    transfer: list[ProbeTransfer] = field(default_factory=list)
    stability: list[DirectionStability] = field(default_factory=list)
    subspace_angles: list[SubspaceAngle] = field(default_factory=list)
    weight_alignments: list[WeightAlignment] = field(default_factory=list)
    activation_shifts: list[ActivationShift] = field(default_factory=list)
    mediated_shares: list[MediatedShare] = field(default_factory=list)
    doses: list[DoseEffect] = field(default_factory=list)
    patches: list[PatchEffect] = field(default_factory=list)
    qualities: list[SaeQuality] = field(default_factory=list)
    shifts: list[FeatureShift] = field(default_factory=list)
    overlaps: list[FeatureOverlap] = field(default_factory=list)
    stages: list[StageTime] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    study: str = ""
    """The text of ``study.toml``."""


def load_rows(run: Path) -> RunRows:
    """Reads every known file of a run directory.

    Raises:
        InputError: ``run`` is no directory, or a file in it is malformed.
    """
    if not run.is_dir():
        raise InputError(run, "is not a run directory", "give the --out folder of `lpa run`")
    found: dict[str, Any] = {
        name: read_rows(run / path, record) for name, (path, record) in FILES.items()
    }
    study = run / "study.toml"
    text = study.read_text(encoding="utf-8") if study.exists() else ""
    return RunRows(**found, provenance=_read_provenance(run / "provenance.json"), study=text)


def _read_provenance(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(path, f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(path, "must hold one JSON object")
    return value
