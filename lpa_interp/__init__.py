"""Latent Personality Alignment on HookedTransformer: traits, training, behaviour.

The public names load on first use, so that ``import lpa_interp`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lpa_interp.benchmarks import list_benchmarks as list_benchmarks
    from lpa_interp.benchmarks import load_benchmark as load_benchmark
    from lpa_interp.config import Study as Study
    from lpa_interp.evaluation import evaluate as evaluate
    from lpa_interp.export import load_adapter as load_adapter
    from lpa_interp.export import save_adapter as save_adapter
    from lpa_interp.generation import generate as generate
    from lpa_interp.model import load_model as load_model
    from lpa_interp.organism import make_organism as make_organism
    from lpa_interp.study_file import load_study as load_study
    from lpa_interp.train import train_lpa as train_lpa
    from lpa_interp.traits import load_traits as load_traits

__version__ = "0.1.0"

_HOMES = {
    "Study": "config",
    "evaluate": "evaluation",
    "generate": "generation",
    "list_benchmarks": "benchmarks",
    "load_adapter": "export",
    "load_benchmark": "benchmarks",
    "load_model": "model",
    "load_study": "study_file",
    "load_traits": "traits",
    "make_organism": "organism",
    "save_adapter": "export",
    "train_lpa": "train",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lpa_interp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lpa_interp.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
