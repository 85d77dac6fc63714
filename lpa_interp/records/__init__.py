"""The rows that cross stages: plain frozen values, written as JSON lines.

Nothing here needs torch. Each record is one line of one file of the run directory; the
docstring of a record names its file. ``model`` is always one of the labels in `ModelLabel`.
"""

from __future__ import annotations

from lpa_interp.records.behaviour import Completion, Contrast, Score, Verdict
from lpa_interp.records.causal import AblationEffect
from lpa_interp.records.cost import StageTime
from lpa_interp.records.features import FeatureOverlap, FeatureShift, SaeQuality
from lpa_interp.records.geometry import DirectionAngle
from lpa_interp.records.labels import ModelLabel, PromptSide, ScoreSide, TraitSide
from lpa_interp.records.probing import Direction, ProbeScore, Projection, RefusalCandidate
from lpa_interp.records.texts import Prompt, TraitStatement
from lpa_interp.records.training import TrainingStep

__all__ = [
    "AblationEffect",
    "Completion",
    "Contrast",
    "Direction",
    "DirectionAngle",
    "FeatureOverlap",
    "FeatureShift",
    "ModelLabel",
    "ProbeScore",
    "Projection",
    "Prompt",
    "PromptSide",
    "RefusalCandidate",
    "SaeQuality",
    "Score",
    "ScoreSide",
    "StageTime",
    "TrainingStep",
    "TraitSide",
    "TraitStatement",
    "Verdict",
]
