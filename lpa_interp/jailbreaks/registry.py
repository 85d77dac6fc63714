"""Makes the attacks that a study names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from lpa_interp.errors import InputError
from lpa_interp.jailbreaks.attack import Attack
from lpa_interp.jailbreaks.catalogue import positive, split_name, streams


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResources:
    """What attacks may need beside their name.

    ``refusal`` holds unit vectors of the refusal direction, ``own`` and ``base``; ``replies``
    is a file in which an attacker model's answers are kept; ``tell`` is told of losses.
    """

    seed: int = 0
    translations: Path | None = None
    refusal: Mapping[str, Tensor] = field(default_factory=dict)
    replies: Path | None = None
    tell: Callable[[str], None] | None = None


def find_attack(name: str, resources: AttackResources | None = None) -> Attack:
    """The attack of a name, under that name.

    Raises:
        InputError: No such attack, an argument that it does not take, or what it needs is not
            there.
    """
    kind, argument = split_name(name)
    made = _MAKERS[kind](argument, resources or AttackResources())
    return replace(made, name=name)


def _written(argument: str, given: AttackResources, name: str) -> Attack:
    from lpa_interp.jailbreaks.written import DIRECT, PREFILL

    return DIRECT if name == "direct" else PREFILL


def _persona(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.persona import persona_attack

    return persona_attack(argument)


def _template(argument: str, given: AttackResources, source: str) -> Attack:
    from lpa_interp.jailbreaks.templates import template_attack

    return template_attack(source, given.seed, int(argument) if argument else None)


def _shots(argument: str, given: AttackResources, name: str) -> Attack:
    from lpa_interp.jailbreaks import in_context

    make: Callable[[int], Attack] = getattr(in_context, name)
    return make(int(argument))


def _translation(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.translation import FORMAT, translation_attack

    if given.translations is None:
        raise InputError("attack 'translation'", "needs evaluate.translations", FORMAT)
    return translation_attack(given.translations, argument or None)


def _gcg(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.gcg import gcg_attack

    return gcg_attack(n_steps=int(argument), seed=given.seed)


def _latent(argument: str, given: AttackResources, random: bool) -> Attack:
    from lpa_interp.jailbreaks.latent import latent_pgd_attack, latent_random_attack

    epsilon = positive(argument)
    return latent_random_attack(epsilon, seed=given.seed) if random else latent_pgd_attack(epsilon)


def _ablation(argument: str, given: AttackResources, whose: str) -> Attack:
    from lpa_interp.jailbreaks.ablation import ablation_attack

    name = f"ablate_{whose}_refusal"
    if whose not in given.refusal:
        raise InputError(f"attack {name!r}", f"there is no refusal direction of the {whose} model")
    return ablation_attack(name, given.refusal[whose], whose)


def _random_ablation(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.ablation import random_ablation_attack

    return random_ablation_attack(int(argument))


def _fine_tuning(argument: str, given: AttackResources, identity: bool) -> Attack:
    from lpa_interp.jailbreaks.fine_tuning import fine_tuning_attack

    return fine_tuning_attack("identity" if identity else "benign", int(argument), given.seed)


def _pair(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.attacker import attacker_endpoint_from_environment
    from lpa_interp.jailbreaks.pair import PairSettings, pair_attack

    n_streams, n_iterations = streams(argument)
    return pair_attack(
        attacker_endpoint_from_environment(),
        PairSettings(n_streams=n_streams, n_iterations=n_iterations),
        seed=given.seed,
        kept=given.replies,
        tell=given.tell,
    )


def _autodan(argument: str, given: AttackResources) -> Attack:
    from lpa_interp.jailbreaks.attacker import attacker_endpoint_from_environment
    from lpa_interp.jailbreaks.autodan import AutodanSettings, autodan_attack

    return autodan_attack(
        attacker_endpoint_from_environment(),
        AutodanSettings(steps=int(argument)),
        seed=given.seed,
        kept=given.replies,
        tell=given.tell,
    )


_MAKERS: dict[str, Callable[[str, AttackResources], Attack]] = {
    "direct": lambda a, g: _written(a, g, "direct"),
    "prefill": lambda a, g: _written(a, g, "prefill"),
    "persona": _persona,
    "template": lambda a, g: _template(a, g, "template"),
    "wild": lambda a, g: _template(a, g, "wild"),
    "in_context_attack": lambda a, g: _shots(a, g, "in_context_attack"),
    "many_shot": lambda a, g: _shots(a, g, "many_shot"),
    "in_context_defence": lambda a, g: _shots(a, g, "in_context_defence"),
    "translation": _translation,
    "gcg": _gcg,
    "latent_pgd": lambda a, g: _latent(a, g, random=False),
    "latent_random": lambda a, g: _latent(a, g, random=True),
    "ablate_own_refusal": lambda a, g: _ablation(a, g, "own"),
    "ablate_base_refusal": lambda a, g: _ablation(a, g, "base"),
    "ablate_random": _random_ablation,
    "fine_tuning_benign": lambda a, g: _fine_tuning(a, g, identity=False),
    "fine_tuning_identity": lambda a, g: _fine_tuning(a, g, identity=True),
    "pair": _pair,
    "autodan": _autodan,
}
