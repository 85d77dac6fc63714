"""A saved direction as an intervention, in one line.

    from probes import load_direction, open_direction
    refusal = load_direction(run / "probes" / "directions.safetensors", "refusal", "lpa")
    with open_direction(model, refusal, mode="ablate"):
        texts = generate(model, rows, max_new_tokens=64)

Hooks that are closed again leave nothing behind in the model.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch

from lpa_interp.errors import InputError
from lpa_interp.hooks import Intervention, ablate, add
from lpa_interp.model import HookedTransformer
from lpa_interp.records import Direction
from probes.stacked import WRITERS

MODES = ("ablate", "add")


def open_direction(
    model: HookedTransformer,
    direction: Direction,
    mode: str = "ablate",
    coefficient: float = 1.0,
) -> AbstractContextManager[HookedTransformer]:
    """Opens a direction as hooks on a model: inside the block it is cut out, or added.

    Blocks nest, and hooks that were open stay open.

    Args:
        model: The model, changed only inside the block.
        direction: From `probes.directions.load_direction` or a search.
        mode: As in `direction_hooks`.
        coefficient: As in `direction_hooks`.

    Returns:
        A context manager that gives the model.

    Raises:
        InputError: As `direction_hooks`.
    """
    opened: AbstractContextManager[HookedTransformer] = model.hooks(
        fwd_hooks=direction_hooks(model, direction, mode, coefficient)
    )
    return opened


def direction_hooks(
    model: HookedTransformer,
    direction: Direction,
    mode: str = "ablate",
    coefficient: float = 1.0,
) -> Intervention:
    """A direction as ``(hook_name, hook_function)`` pairs, for example for `generate`'s ``hooks``.

    Args:
        model: The model that the hooks are for.
        direction: Its unit vector and raw norm.
        mode: ``ablate`` cuts the direction out of everything that writes into the residual
            stream, at all positions, which leaves every residual stream without it. ``add`` adds
            the raw difference (unit vector times raw norm) at the direction's own hook point, at
            all positions.
        coefficient: For ``add`` the multiple that is added, negative to subtract; for ``ablate``
            the fraction that is cut out, 0 to 1.

    Raises:
        InputError: The mode or coefficient is not allowed, or the direction is not of this model.

    Source: Arditi et al. 2024, arXiv 2406.11717, equations 3 and 4.
    """
    place = f"direction {direction.name!r}"
    if mode not in MODES:
        raise InputError("mode", f"{mode!r} is not allowed", " or ".join(MODES))
    if direction.vector.shape != (model.cfg.d_model,):
        found = f"has {len(direction.vector)} dimensions"
        raise InputError(place, found, f"this model's d_model is {model.cfg.d_model}")
    if direction.hook_name not in model.hook_dict:
        raise InputError(place, f"this model has no hook point {direction.hook_name}")
    if not math.isfinite(coefficient) or (mode == "ablate" and not 0 <= coefficient <= 1):
        allowed = "0 to 1 to ablate, any finite number to add"
        raise InputError("coefficient", f"{coefficient} is not allowed", allowed)
    unit = torch.nn.functional.normalize(torch.from_numpy(direction.vector).float(), dim=0)
    if mode == "add":
        return [(direction.hook_name, add(coefficient * direction.raw_norm * unit))]
    # x - (x . sqrt(c) r) sqrt(c) r takes out the fraction c. Each part of the stream passes one of
    # these hooks once, so that the whole stream loses that fraction too.
    cut = ablate(math.sqrt(coefficient) * unit)
    layers = range(model.cfg.n_layers)
    written = [f"blocks.{layer}.{site}" for layer in layers for site in WRITERS]
    return [(name, cut) for name in ("blocks.0.hook_resid_pre", *written)]
