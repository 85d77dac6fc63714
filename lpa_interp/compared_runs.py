"""Runs that are to be compared: what they hold, which are seeds of one study, how they differ."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.records import Score, Verdict
from lpa_interp.runs import content_hash, read_rows

NOT_BEHAVIOUR = ("name", "seed", "probes", "features")
"""Tables and keys of a study that do not decide what the trained model does."""

MADE_BY = ("model", "base_label", "trait_source", "n_statements", "device", "dtype")
"""What ``provenance.json`` tells of a run beside its study."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run: its label, its study and seed, and its rows of behaviour.

    ``study`` is shared by runs whose settings agree in all but the seed. ``settings`` are those
    that decide behaviour, by dotted key.
    """

    label: str
    study: str
    seed: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    scores: Sequence[Score]
    verdicts: Sequence[Verdict]


def read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Reads run directories, in the order given.

    A study is called by its name where no other has that name, or by its method where no other
    has that, otherwise by its first run.

    Raises:
        InputError: A folder is no run with scores, or two are the same study and seed.
    """
    labels = _labels(paths)
    found = [_read(path, label) for path, label in zip(paths, labels, strict=True)]
    hashes = [content_hash(run.settings) for run in found]
    first: dict[str, ComparedRun] = {}
    seen: dict[tuple[str, int], str] = {}
    for path, run, settings in zip(paths, found, hashes, strict=True):
        if (settings, run.seed) in seen:
            twin = seen[settings, run.seed]
            raise InputError(path, f"is the same study and seed as {twin}", "each run once")
        seen[settings, run.seed] = run.label
        first.setdefault(settings, run)
    names = _study_names(list(first.values()))
    study = dict(zip(first, names, strict=True))
    return [replace(run, study=study[key]) for run, key in zip(found, hashes, strict=True)]


def study_groups(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Runs by study, in order."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(run.study, []).append(run)
    return groups


def differences(runs: Sequence[ComparedRun]) -> list[str]:
    """How the runs differ, one line a difference: settings, provenance, what was measured."""
    parts: dict[str, list[Mapping[str, Any]]] = {
        "": [run.settings for run in runs],
        "provenance, ": [{key: run.provenance.get(key) for key in MADE_BY} for run in runs],
        "version of ": [run.provenance.get("versions", {}) for run in runs],
        "hash of ": [run.provenance.get("data_hashes", {}) for run in runs],
    }
    lines = []
    for what, held in parts.items():
        for key in dict.fromkeys(key for values in held for key in values):
            lines.append(_told(what + key, runs, [values.get(key) for values in held]))
    lines += [_unshared(what, runs) for what in ("benchmark", "attack", "judge")]
    for name, found in study_groups(runs).items():
        lines.append(f"{name}: one seed, so no spread is known" if len(found) == 1 else "")
    return [line for line in lines if line]


def _study_names(runs: Sequence[ComparedRun]) -> list[str]:
    """A name for each study, from the first run of each."""
    choices = ([run.study for run in runs], [str(run.settings.get("method")) for run in runs])
    for names in choices:
        if len(set(names)) == len(names):
            return names
    return [run.label for run in runs]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Folder names; whole paths where two folders have one name."""
    names = [path.resolve().name for path in paths]
    return [
        str(path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]


def _read(path: Path, label: str) -> ComparedRun:
    study, scores = path / "study.toml", path / "behaviour" / "scores.jsonl"
    for needed in (study, scores):
        if not needed.is_file():
            missing = needed.relative_to(path)
            raise InputError(path, f"holds no {missing}", "a run directory that was evaluated")
    try:
        tree = tomllib.loads(study.read_text(encoding="utf-8"))
        provenance_file = path / "provenance.json"
        known = provenance_file.is_file()
        provenance = json.loads(provenance_file.read_text(encoding="utf-8")) if known else {}
    except ValueError as error:  # both decoders' errors are
        raise InputError(path, f"study.toml or provenance.json cannot be read: {error}") from None
    if not isinstance(tree.get("seed"), int):
        raise InputError(study, "has no seed", "the study.toml of a run")
    settings = _flat({key: value for key, value in tree.items() if key not in NOT_BEHAVIOUR})
    settings.pop("model.device", None)
    return ComparedRun(
        label=label,
        study=str(tree.get("name", label)),
        seed=tree["seed"],
        settings=settings,
        provenance=provenance,
        scores=read_rows(scores, Score),
        verdicts=read_rows(path / "behaviour" / "verdicts.jsonl", Verdict),
    )


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[before + key] = value
    return flat


def _told(what: str, runs: Sequence[ComparedRun], values: Sequence[Any]) -> str:
    """``what: value in A, B; other in C`` where the runs differ, or nothing."""
    by_value: dict[str, list[str]] = {}
    for run, value in zip(runs, values, strict=True):
        told = "not set" if value is None else json.dumps(value)
        by_value.setdefault(told, []).append(run.label)
    if len(by_value) == 1:
        return ""
    return f"{what}: " + "; ".join(f"{v} in {', '.join(names)}" for v, names in by_value.items())


def _unshared(what: str, runs: Sequence[ComparedRun]) -> str:
    """The benchmarks, attacks or judges that not all runs have."""
    held = {run.label: {getattr(score, what) for score in run.scores} for run in runs}
    every = dict.fromkeys(getattr(score, what) for run in runs for score in run.scores)
    lines = []
    for value in every:
        holders = [label for label, values in held.items() if value in values]
        if len(holders) < len(runs):
            lines.append(f"{value} in {', '.join(holders)} alone")
    return f"{what}: " + "; ".join(lines) if lines else ""
