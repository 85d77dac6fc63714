"""Labels that rows share."""

from __future__ import annotations

from typing import Literal

TraitSide = Literal["positive", "negative"]
"""Positive statements describe traits to keep, negative ones traits to reject."""

PromptSide = Literal["harmful", "harmless"]

ScoreSide = Literal["harmful", "harmless", "both"]
"""``both`` is for measures that compare the two sides (AUROC) or need none (perplexity)."""

ModelLabel = Literal["source", "base", "lpa"]
"""``source``: the model as loaded. ``base``: what training starts from (the refusal organism,
or the source itself where no organism is made). ``lpa``: the base with the trained adapter."""
