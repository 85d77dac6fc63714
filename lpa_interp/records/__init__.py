"""The rows that cross stages: plain frozen values, written as JSON lines.

Nothing here needs torch. Each record is one line of one file of the run directory; the
docstring of a record names its file. ``model`` is always one of the labels in `ModelLabel`.
"""

from __future__ import annotations

from lpa_interp.records.behaviour import (
    AttackCost,
    Completion,
    Contrast,
    NearPair,
    Score,
    SetOverlap,
    Verdict,
)
from lpa_interp.records.causal import AblationEffect, DoseEffect, MediatedShare, PatchEffect
from lpa_interp.records.comparing import RunContrast, RunScore, SeedSpread
from lpa_interp.records.cost import StageTime
from lpa_interp.records.features import FeatureOverlap, FeatureShift, SaeQuality
from lpa_interp.records.geometry import (
    ActivationShift,
    DirectionAngle,
    SubspaceAngle,
    WeightAlignment,
)
from lpa_interp.records.judging import Agreement, Judgement
from lpa_interp.records.labels import ModelLabel, PromptSide, ScoreSide, TraitSide
from lpa_interp.records.probing import (
    Direction,
    DirectionStability,
    ProbeScore,
    ProbeTransfer,
    Projection,
    RefusalCandidate,
)
from lpa_interp.records.texts import Prompt, TraitStatement
from lpa_interp.records.training import AttackSite, HarmRate, TrainingStep, WatchedCompletion

__all__ = [
    "AblationEffect",
    "ActivationShift",
    "Agreement",
    "AttackCost",
    "AttackSite",
    "Completion",
    "Contrast",
    "Direction",
    "DirectionAngle",
    "DirectionStability",
    "DoseEffect",
    "FeatureOverlap",
    "FeatureShift",
    "HarmRate",
    "Judgement",
    "MediatedShare",
    "ModelLabel",
    "NearPair",
    "PatchEffect",
    "ProbeScore",
    "ProbeTransfer",
    "Projection",
    "Prompt",
    "PromptSide",
    "RefusalCandidate",
    "RunContrast",
    "RunScore",
    "SaeQuality",
    "Score",
    "ScoreSide",
    "SeedSpread",
    "SetOverlap",
    "StageTime",
    "SubspaceAngle",
    "TrainingStep",
    "TraitSide",
    "TraitStatement",
    "Verdict",
    "WatchedCompletion",
    "WeightAlignment",
]
