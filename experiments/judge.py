"""``lpa judge``: judges a run's completions again, or tells how far two judges agree."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands import JUDGES
from experiments.judge_tables import show_agreement, show_scores
from experiments.judged_run import (
    KeptJudgements,
    renew_contrasts,
    run_completions,
    run_prompts,
    write_judged,
)
from experiments.progress import Reporter
from lpa_interp.errors import InputError
from lpa_interp.judging import Judge, judge_each, key_of, verdict_of
from lpa_interp.records import Completion, Judgement
from lpa_interp.study_file import load_study

if TYPE_CHECKING:
    from lpa_interp.endpoint import Endpoint


def judge_run(options: argparse.Namespace) -> int:
    """Judges, or compares two judges. 1 where a judge did not answer for every completion."""
    completions = run_completions(options.run)
    seed = load_study(options.run / "study.toml").seed
    if options.agreement:
        first, second = options.agreement
        show_agreement(options.run, first, second, options.threshold, seed)
        return 0
    judge = make_judge(options)
    with Reporter(options.quiet) as tell:
        judgements = collect(options.run, judge, completions, options.again, tell)
    scores = write_judged(options.run, judge, judgements, seed)
    renew_contrasts(options.run, judge, [verdict_of(row) for row in judgements], seed)
    show_scores(judge, scores, judgements)
    return 1 if any(row.failed for row in judgements) else 0


def collect(
    run: Path, judge: Judge, completions: Sequence[Completion], again: bool, tell: Reporter
) -> list[Judgement]:
    """The judge's answer on each completion that it is meant for; kept ones are not asked anew."""
    asked = [c for c in completions if ("harmful" if c.harmful else "harmless") in judge.sides]
    if len(asked) < len(completions):
        tell.say(
            f"  {judge.name} is for {' and '.join(judge.sides)} requests: "
            f"{len(completions) - len(asked)} other completions are not given to it"
        )
    names = [c.benchmark for c in asked] if judge.reads_request else []
    prompts = run_prompts(run, names, tell.say)
    kept = KeptJudgements(run)
    found = kept.of(judge, asked) if judge.slow and not again else []
    done = {key_of(row): row for row in found}
    if done:
        tell.say(f"  {len(done)} answers of {judge.name} are there already (--again asks anew)")
    new = [completion for completion in asked if key_of(completion) not in done]
    for row in judge_each(new, prompts, judge, tell):
        done[key_of(row)] = row
        if judge.slow:
            kept.add(row)
    return [done[key_of(completion)] for completion in asked]


def make_judge(options: argparse.Namespace) -> Judge:
    """The judge that the command line names.

    Raises:
        InputError: There is no such judge, or it lacks what it needs.
    """
    kind, _, name = options.judge.partition(":")
    if kind in ("classifier", "human", "judgezoo") and not name:
        raise InputError(f"--judge {options.judge}", "names no model or file", JUDGES)
    if kind == "classifier":
        from lpa_interp.classifier_judges import classifier_judge

        return classifier_judge(name, options.harmful_label, options.with_request)
    if kind == "judgezoo":
        from lpa_interp.classifier_judges import judgezoo_judge

        return judgezoo_judge(name)
    if kind == "human":
        from lpa_interp.human_labels import human_judge

        return human_judge(Path(name))
    if options.judge == "strongreject":
        from lpa_interp.strong_reject import strong_reject_judge

        return strong_reject_judge(make_endpoint(options), options.workers)
    if options.judge == "parroting":
        from experiments.workbench import study_statements
        from lpa_interp.parroting import answers_of, parroting_judge

        return parroting_judge(answers_of(study_statements(load_study(options.run / "study.toml"))))
    from lpa_interp.text_judges import TEXT_JUDGES, text_judge

    if options.judge not in TEXT_JUDGES:
        raise InputError(f"--judge {options.judge}", "no such judge", JUDGES)
    return text_judge(options.judge)


def make_endpoint(options: argparse.Namespace) -> Endpoint:
    """The endpoint that the command line or the environment names; the key is never an option.

    Raises:
        InputError: The address, the model or the key is missing.
    """
    from lpa_interp.endpoint import Endpoint

    url = options.endpoint or os.environ.get("LPA_JUDGE_URL")
    model = options.judge_model or os.environ.get("LPA_JUDGE_MODEL")
    if not url or not model:
        missing = "--judge-model NAME or LPA_JUDGE_MODEL" if url else "--endpoint or LPA_JUDGE_URL"
        raise InputError("--judge strongreject", "needs a chat model that judges", missing)
    if options.workers < 1:
        raise InputError("--workers", f"{options.workers} is not allowed", "1 or more")
    key_name = options.key_name or os.environ.get("LPA_JUDGE_KEY_NAME")
    if key_name and key_name not in os.environ:
        raise InputError("--key-name", f"the environment has no {key_name}", "export it first")
    try:
        more = json.loads(options.request_options or "{}")
    except ValueError:
        more = None
    if not isinstance(more, dict):
        raise InputError("--request-options", "is not a JSON object", "'{\"seed\": 1}'")
    key = os.environ[key_name].strip() if key_name else None
    return Endpoint(base_url=url, model=model, key=key, options=more, timeout=options.timeout)
