"""What made a run: versions, device, seeds, hashes of model and data."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from datetime import UTC, datetime
from typing import Any

from experiments.workbench import Workbench
from lpa_interp.methods import METHODS
from lpa_interp.runs import content_hash, write_json
from lpa_interp.sources import find_source, source_hash

PACKAGES = (
    "lpa-interp",
    "torch",
    "transformer-lens",
    "sae-lens",
    "transformers",
    "scikit-learn",
    "scipy",
    "statsmodels",
    "numpy",
)


def write_provenance(bench: Workbench) -> None:
    """Writes ``provenance.json``. The command's own path is left out: it may name a person."""
    from lpa_interp.model import pick_device

    study = bench.study
    source = find_source(study.model.name)
    record: dict[str, Any] = {
        "study_name": study.name,
        "seed": study.seed,
        "model": source.label,
        "model_hash": source_hash(source),
        "organism": study.organism.enabled,
        "base_label": f"refusal organism of {source.label}"
        if study.organism.enabled
        else source.label,
        "method": study.method,
        "method_summary": METHODS[study.method].summary,
        "method_source": METHODS[study.method].source,
        "trait_source": study.traits.source,
        "n_statements": len(bench.statements),
        "device": pick_device(study.model.device),
        "dtype": study.model.dtype,
        "data_hashes": data_hashes(bench),
        "versions": {"python": platform.python_version()} | versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["lpa", *sys.argv[1:]]),
        "skipped": [list(pair) for pair in bench.skipped],
        "notes": [],
    }
    write_json(bench.run / "provenance.json", record)


def data_hashes(bench: Workbench) -> dict[str, str]:
    """A short hash of the statements and of each benchmark's prompts, in order."""
    hashes = {"traits": content_hash([(s.text, s.desired) for s in bench.statements])}
    for name, prompts in bench.benchmarks.items():
        hashes[name] = content_hash([(prompt.id, prompt.text) for prompt in prompts])
    return hashes


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide the numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
