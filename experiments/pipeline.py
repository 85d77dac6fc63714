"""The pipeline: which stage needs which, what is done already, what each one cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from experiments import stages
from experiments.progress import Reporter
from experiments.provenance import data_hashes
from experiments.workbench import Workbench, study_statements
from lpa_interp import __version__
from lpa_interp.config import Study
from lpa_interp.errors import InputError
from lpa_interp.records import StageTime
from lpa_interp.runs import RunDirectory, content_hash, read_rows, write_rows, write_text
from lpa_interp.sources import ModelSource


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: what it needs, the settings that decide its result, and what runs it."""

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    run: Callable[[Workbench], bool]


STAGES = (
    Stage("organism", (), ("model", "organism"), stages.stage_1_organism),
    Stage("train", ("organism",), ("traits", "train"), stages.stage_2_train),
    Stage("evaluate", ("train",), ("evaluate",), stages.stage_3_evaluate),
    Stage("probe", ("train",), ("probes",), stages.stage_4_probe),
    Stage("refusal", ("probe",), ("probes",), stages.stage_5_refusal),
    Stage("features", ("train",), ("features",), stages.stage_6_features),
    Stage("report", (), (), stages.stage_7_report),
)
TRAINED_ON = {
    "advbench": ("advbench",),
    "harmbench": ("harmbench-validation",),
    "published_csv": ("lpa_personality",),
}
"""Benchmarks that hold what a statement source trains on."""
_BY_NAME = {stage.name: stage for stage in STAGES}


def run_study(study: Study, out: Path, last: str, tell: Reporter) -> RunDirectory:
    """Runs the stages that ``last`` needs (all of them for ``run``), going on where it stopped.

    Args:
        study: The resolved study.
        out: The run directory: new, empty, or of the same study.
        last: A stage's name, or ``run``.
        tell: Told of everything.

    Raises:
        InputError: The folder belongs to another study, or an input is wrong.
        NumericalError: Training met a value that is not finite.
    """
    run = RunDirectory(out)
    check_study(study)
    run.claim(owner_hash(study))
    write_text(run / "study.toml", study_toml(study))
    bench = Workbench(study, run, tell)
    keys: dict[str, str] = {}
    for stage in wanted_stages(study, last):
        keys[stage.name] = stage_key(bench, stage, keys)
        # The report is cheap and reads whatever is there, so it is always made.
        if stage.name != "report" and run.done(stage.name, keys[stage.name]):
            tell.say(f"{stage.name}: done before")
            continue
        perform(bench, stage, keys[stage.name])
    if last == "run":
        perform(bench, _BY_NAME["report"], "always")  # once more, with the last stage's time
    return run


def owner_hash(study: Study) -> str:
    """Hash of the study that a run directory belongs to.

    Completions may be asked for whole later: that measures again and is no other study.
    """
    settings = study.model_dump(mode="json")
    settings["evaluate"].pop("store_completions")
    return content_hash(settings)


def check_study(study: Study) -> None:
    """Finds mistakes that need no model before any work is done."""
    from lpa_interp.benchmarks import find_benchmark, load_benchmark
    from lpa_interp.sources import find_source
    from probes import load_directions, trait_set_sources

    for name in study.evaluate.benchmarks:
        if find_benchmark(name).user_file:
            load_benchmark(name)
    known = {row["name"] for row in trait_set_sources()}
    for name in study.probes.transfer_sets:
        if name not in known:
            raise InputError(f"probes.transfer_sets: {name!r}", "no such set", ", ".join(known))
    check_behaviour(study)
    study_statements(study)
    if study.train.subspace is not None:
        load_directions(study.train.subspace)
    seen = set(TRAINED_ON.get(study.traits.source, ())) & set(study.evaluate.benchmarks)
    if seen:
        raise InputError(
            f"evaluate.benchmarks: {sorted(seen)[0]!r}",
            "is what the model is trained on",
            "measure on another set",
        )
    source = find_source(study.model.name)
    if not source.is_folder:
        from lpa_interp.model import official_name

        official_name(source.location)
    check_layers(study, source)


def check_behaviour(study: Study) -> None:
    """Checks the attacks, judges and tasks that the study names, and the files they read."""
    from lpa_interp.jailbreaks.catalogue import NEED_DIRECTIONS, split_name
    from lpa_interp.jailbreaks.registry import AttackResources, find_attack
    from lpa_interp.text_judges import text_judge
    from lpa_interp.utility import find_task

    resources = AttackResources(seed=study.seed, translations=study.evaluate.translations)
    for name in study.evaluate.attacks:
        if split_name(name)[0] not in NEED_DIRECTIONS:
            find_attack(name, resources)
    for judge in study.evaluate.judges:
        text_judge(judge)
    for task in study.evaluate.utility:
        find_task(task)


def check_layers(study: Study, source: ModelSource) -> None:
    """Checks the layers that the study names, where the model's configuration is here."""
    if not source.is_folder:
        return
    from transformers import AutoConfig

    from lpa_interp.hooks import expand_layers, require_d_model

    config = AutoConfig.from_pretrained(source.location)
    for pattern in (*study.train.sites, study.features.hook_name):
        expand_layers(pattern, config.get_text_config().num_hidden_layers)
    require_d_model(study.train.sites)


def wanted_stages(study: Study, last: str) -> list[Stage]:
    """The stages to run, in order."""
    if last == "run":
        names = {stage.name for stage in STAGES} - {"report"}
    else:
        names, left = set(), [last]
        while left:
            name = left.pop()
            names.add(name)
            left += stage_needs(study, _BY_NAME[name])
    if not study.features.enabled:
        names.discard("features")
    late = "refusal" in stage_needs(study, _BY_NAME["evaluate"])
    stages = [stage for stage in STAGES if stage.name in names]
    return sorted(stages, key=lambda stage: late and stage.name in ("evaluate", "report"))


def stage_needs(study: Study, stage: Stage) -> tuple[str, ...]:
    """What a stage needs in this study: some attacks cut out a direction that is found first."""
    from lpa_interp.jailbreaks.catalogue import NEED_DIRECTIONS, split_name

    kinds = {split_name(name)[0] for name in study.evaluate.attacks}
    late = stage.name == "evaluate" and kinds & set(NEED_DIRECTIONS)
    return (*stage.needs, "refusal") if late else stage.needs


def stage_key(bench: Workbench, stage: Stage, keys: dict[str, str]) -> str:
    """Hash of everything that decides a stage's result."""
    study = bench.study.model_dump(mode="json")
    parts: dict[str, Any] = {
        "version": __version__,
        "stage": stage.name,
        "seed": study["seed"],
        "settings": [study[name] for name in stage.settings],
        "needs": [keys[name] for name in stage_needs(bench.study, stage)],
    }
    if stage.name in ("train", "evaluate"):
        parts["data"] = data_hashes(bench)
    return content_hash(parts)


def perform(bench: Workbench, stage: Stage, key: str) -> None:
    """Runs one stage and notes what it cost."""
    bench.tell.say(f"{stage.name} ...")
    bench.run.begin(stage.name)
    bench.stage_key = key
    start = time.perf_counter()
    reused = stage.run(bench)
    seconds = time.perf_counter() - start
    path = bench.run / "stages.jsonl"
    row = StageTime(
        stage=stage.name, seconds=seconds, peak_memory_mib=peak_memory_mib(), reused=reused
    )
    others = [time for time in read_rows(path, StageTime) if time.stage != stage.name]
    order = [known.name for known in STAGES]
    write_rows(path, sorted([*others, row], key=lambda time: order.index(time.stage)))
    bench.run.finish(stage.name, key)
    bench.tell.say(f"{stage.name}: {seconds:.0f} s" + (" (from the cache)" if reused else ""))


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def study_toml(study: Study) -> str:
    """The resolved study as TOML; settings without a value are left out."""

    def without_none(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: without_none(v) for k, v in value.items() if v is not None}
        return value

    return tomli_w.dumps(without_none(study.model_dump(mode="json")))
