"""The behaviour of a study's models: what they say, under which attacks, judged by whom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.kept_chunks import KeptChunks
from experiments.workbench import Workbench
from lpa_interp.chat import chat_rows
from lpa_interp.errors import InputError
from lpa_interp.evaluation import Evaluation, contrasts, evaluate
from lpa_interp.jailbreaks.attack import Attack
from lpa_interp.jailbreaks.catalogue import NEED_DIRECTIONS
from lpa_interp.jailbreaks.registry import AttackResources, find_attack
from lpa_interp.judging import Judge
from lpa_interp.prepared_sets import HasText
from lpa_interp.price import BaseAnswers
from lpa_interp.records import ModelLabel
from lpa_interp.runs import content_hash, write_rows
from lpa_interp.text_judges import text_judge
from lpa_interp.utility import Item, find_task, load_task, reference_log_probs


def measure_behaviour(bench: Workbench) -> None:
    """Writes ``behaviour/``. A call that was stopped goes on where it stopped."""
    config, seed, folder = bench.study.evaluate, bench.study.seed, bench.run / "behaviour"
    for name, reason in bench.skipped:
        bench.tell.say(f"  skipped {name}: {reason}")
    keeper = KeptChunks(folder / "unfinished.jsonl", content_hash(bench.stage_key))
    if keeper.rows:
        bench.tell.say(f"  {len(keeper.rows)} batches are measured already")
    tasks, base = utility_tasks(bench), base_answers(bench)
    made: dict[ModelLabel, Evaluation] = {}
    for label in bench.labels:
        attacks = attacks_on(bench, label)
        with bench.model(label) as model:
            bench.tell.say(f"  {label}: {sum(map(len, bench.benchmarks.values()))} prompts")
            made[label] = evaluate(
                model,
                label,
                bench.benchmarks,
                config,
                seed,
                bench.tell,
                attacks=attacks,
                judges=judges_of(bench),
                keeper=keeper,
                tasks=tasks,
                base=base if label != "base" else None,
            )
    for name in ("completions", "verdicts", "scores", "attacks"):
        rows = [row for evaluation in made.values() for row in getattr(evaluation, name)]
        write_rows(folder / f"{name}.jsonl", rows)
    pairs = itertools.pairwise(evaluation.verdicts for evaluation in made.values())
    rows = [row for before, after in pairs for row in contrasts(before, after, seed)]
    write_rows(folder / "contrasts.jsonl", rows)
    write_shared_texts(bench)
    keeper.remove()


def write_shared_texts(bench: Workbench) -> None:
    """How alike the training statements and the prompts of each benchmark are."""
    from experiments.overlaps import prepared
    from lpa_interp.overlap import set_overlaps

    texts: dict[str, Sequence[HasText]] = {f"traits:{bench.study.traits.source}": bench.statements}
    texts |= bench.benchmarks
    trained, *measured = prepared(texts, bench.tell)
    found = [set_overlaps(trained, held) for held in measured]
    folder = bench.run / "behaviour"
    write_rows(folder / "overlap.jsonl", [row for rows, _ in found for row in rows])
    write_rows(folder / "near_pairs.jsonl", [pair for _, pairs in found for pair in pairs])


def judges_of(bench: Workbench) -> list[Judge]:
    """The study's judges; what counts as parroting are the answers that it trained on."""
    from lpa_interp.parroting import answers_of, parroting_judge

    judges = [text_judge(name) for name in bench.study.evaluate.judges]
    return [*judges, parroting_judge(answers_of(bench.statements))]


def utility_tasks(bench: Workbench) -> dict[str, list[Item]]:
    """Items of the study's public tasks that are on this machine."""
    config, tasks = bench.study.evaluate, {}
    for name in config.utility:
        find_task(name)
        try:
            tasks[name] = load_task(name, config.utility_limit, bench.study.seed)
        except InputError as error:
            bench.tell.say(f"  skipped {name}: {error}")
    return tasks


def base_answers(bench: Workbench) -> dict[str, BaseAnswers]:
    """What the base model says to the first harmless prompts of each benchmark."""
    config, found = bench.study.evaluate, {}
    for name, prompts in bench.benchmarks.items():
        chosen = [prompt for prompt in prompts if not prompt.harmful][: config.kl_prompts]
        if len(chosen) > 1:
            with bench.model("base") as model:
                rows = chat_rows(model, [prompt.text for prompt in chosen])
                known = reference_log_probs(model, rows, config.kl_tokens, config.batch_size)
            found[name] = BaseAnswers(tuple(chosen), known)
    return found


def attacks_on(bench: Workbench, label: ModelLabel) -> list[Attack]:
    """The study's attacks on one model; one that cuts out a direction not found is told of."""
    config, directions = bench.study.evaluate, refusal_directions(bench, label)
    resources = AttackResources(
        seed=bench.study.seed,
        translations=config.translations,
        refusal=directions,
        replies=bench.run / "behaviour" / "attacker_replies.jsonl",
        tell=bench.tell.say,
    )
    made = []
    for name in config.attacks:
        whose = name.split("_")[1] if name in NEED_DIRECTIONS else None
        if whose is not None and whose not in directions:
            bench.tell.say(f"  {label}: no {name}: no refusal direction of the {whose} model")
            continue
        made.append(find_attack(name, resources))
    return made


def refusal_directions(bench: Workbench, label: ModelLabel) -> dict[str, Tensor]:
    """The unit refusal directions of this model (``own``) and of the base, where found."""
    if not set(bench.study.evaluate.attacks) & set(NEED_DIRECTIONS):
        return {}
    from probes import load_directions

    found = {
        direction.model: torch.from_numpy(direction.vector)
        for direction in load_directions(bench.run / "probes" / "directions.safetensors")
        if direction.name == "refusal"
    }
    whose = {"own": label, "base": "base"}
    return {name: found[model] for name, model in whose.items() if model in found}
