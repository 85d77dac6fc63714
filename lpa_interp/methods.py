"""Training methods by name: LPA, its controls and its rivals, each a handful of settings.

A *preset* says how strong the attack is and how long training lasts; a *method* says what is
trained against what. All run through the same trainer on the same model, so that two runs
differ in the method alone. Nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LAT = "arXiv 2407.15549"
LPA = "arXiv 2605.08496"
CONTROL = "control of this project"

PRESETS: dict[str, dict[str, Any]] = {
    # LAT's released notebook for Llama-2-7B-chat.
    "published-llama2": {
        "steps": 100,
        "batch_size": 16,
        "attack_tokens": "prompt",
        "epsilon": 6.0,
        "epsilon_unit": "absolute",
        "pgd_learning_rate": 5e-2,
        "defence_sft": 1.5,
        "defence_kl": 0.0,
        "learning_rate": 2e-5,
    },
    # LAT's released notebook for Llama-3-8B, used by LPA for every other model.
    "published-llama3": {
        "steps": 20,
        "batch_size": 1,
        "attack_tokens": "both",
        "epsilon": 6.0,
        "epsilon_unit": "absolute",
        "pgd_learning_rate": 1e-3,
        "defence_sft": 0.0,
        "defence_kl": 0.1,
        "normalise_kl": True,
        "learning_rate": 8e-5,
    },
    # Ours: epsilon in units of the activations, so that the constraint binds and one recipe
    # carries over between models; the defaults of `TrainConfig`.
    "corrected": {},
    "custom": {},
}


@dataclass(frozen=True, slots=True)
class Method:
    """What a method changes, in words and as settings by table of the study."""

    summary: str
    source: str
    traits: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


_CROSS_ENTROPY = {"attack": "none", "defence_toward": 1.0, "defence_away": 0.0, "defence_sft": 1.0,
                  "defence_kl": 0.0}  # fmt: skip
_PREFERENCE = {"defence_toward": 0.0, "defence_away": 0.0, "defence_dpo": 1.0}

METHODS: dict[str, Method] = {
    "lpa": Method("latent adversarial training on personality statements", LPA),
    "none": Method(
        "no training: the adapter stays zero",
        CONTROL,
        train={"attack": "none", "updates_per_step": 0},
    ),
    "sft": Method(
        "cross entropy on the desired answers of the same statements, no attack",
        CONTROL,
        train=_CROSS_ENTROPY,
    ),
    "dpo": Method(
        "preference loss on the same pairs of answers, no attack",
        "arXiv 2305.18290",
        train={"attack": "none", **_PREFERENCE},
    ),
    "lpa-dpo": Method(
        "LPA with the preference loss in attack and defence",
        f"{LAT}, released code",
        train={"attack_toward": 0.0, "attack_away": 0.0, "attack_dpo": 1.0, **_PREFERENCE},
    ),
    "random-perturbation": Method(
        "random perturbations with the norms of the attack's", CONTROL, train={"attack": "random"}
    ),
    "swapped-sides": Method(
        "positive statements are attacked, negative ones carry the retain term",
        CONTROL,
        traits={"variant": "swapped_sides"},
    ),
    "shuffled-answers": Method(
        "desired answers permuted over all statements",
        CONTROL,
        traits={"variant": "shuffled_answers"},
    ),
    "abstract-statements": Method(
        "true and false statements about things, matched in number and length",
        CONTROL,
        traits={"source": "abstract"},
    ),
    **{
        f"factor-{factor}": Method(
            f"the statements of {factor} alone", CONTROL, traits={"factor": factor}
        )
        for factor in ("agreeableness", "conscientiousness", "neuroticism")
    },
    "lat-requests": Method(
        "LAT on harmful requests (shipped, split organism) with refusals and openings",
        LAT,
        traits={"source": "requests"},
    ),
    "lat-advbench": Method("LAT on AdvBench with its targets", LAT, traits={"source": "advbench"}),
    "lat-harmbench": Method(
        "LAT on HarmBench (validation split) with its targets", LAT, traits={"source": "harmbench"}
    ),
    "refat": Method(
        "refusals to harmful requests while the refusal feature is ablated",
        "arXiv 2409.20089",
        traits={"source": "requests"},
        train={"attack": "refusal_feature", "defence_toward": 1.0, "defence_away": 0.0},
    ),
    "circuit-breakers": Method(
        "representations of harmful answers turned away, those of harmless ones kept",
        "arXiv 2406.04313",
        traits={"source": "requests"},
        train={
            "attack": "none",
            "defence_toward": 0.0,
            "defence_away": 0.0,
            "defence_kl": 0.0,
            "defence_reroute": 10.0,
            "defence_representation": 10.0,
            "normalise_coefficients": False,
            "reroute_schedule": True,
        },
    ),
}


def method_settings(name: str, given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A study's ``traits`` and ``train`` tables with the method's settings in them.

    A method fixes its settings, so that its name always means the same recipe.

    Args:
        name: A key of `METHODS`.
        given: The study's tables as the user gave them.

    Raises:
        ValueError: The name is unknown, or the study sets a fixed key to something else.
    """
    if name not in METHODS:
        raise ValueError(f"no such method; there are {', '.join(METHODS)}")
    tables = {}
    for table in ("traits", "train"):
        fixed: dict[str, Any] = getattr(METHODS[name], table)
        held = dict(given.get(table, {}))
        for key, value in fixed.items():
            if key in held and held[key] != value:
                raise ValueError(
                    f"sets {table}.{key} to {value!r}, the study to {held[key]!r}: leave one out"
                )
        tables[table] = {**held, **fixed}
    return tables
