"""Items of the utility tasks as rows of the data sets that the LM Evaluation Harness reads.

The harness's own task files make prompts and requests of the rows, so an item's text is taken
apart here into what its data set holds; a prompt that differs from the harness's gives another
likelihood there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from lpa_interp.utility.loading import task_files
from lpa_interp.utility.mmlu import N_SHOTS, Question, read_questions, subject_of
from lpa_interp.utility.task import Item, Task

Row = dict[str, Any]
_SPLIT = {"validation_split": "validation", "test_split": "test"}


def harness_task(task: Task, item: Item) -> str:
    """What the harness calls the task that an item belongs to: MMLU has one a subject."""
    return f"mmlu_{item.category}" if task.folder == "mmlu" else task.name


def harness_settings(task: Task, name: str, items: Sequence[Item], folder: Path) -> dict[str, Any]:
    """The settings of the harness's task file, reading the items from files written here.

    Args:
        task: The task of the items.
        name: As the harness calls it, from `harness_task`.
        items: To write, in their order.
        folder: Where the rows are written.
    """
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    place = Path(str(lm_eval.tasks.__file__)).parent / _task_file(task, name)
    settings: dict[str, Any] = load_yaml(place)
    files = {_read_split(settings): _written(folder / f"{name}.jsonl", _rows(task, items))}
    if task.name == "mmlu-5shot":
        shots = [_mmlu_row(question) for question in _questions(task, items[0].category, "dev")]
        files[settings["fewshot_split"]] = _written(folder / f"{name}-dev.jsonl", shots)
        settings["num_fewshot"] = N_SHOTS
    elif task.folder == "mmlu":
        settings["fewshot_split"] = None
    if task.name == "hellaswag":
        # Its ``process_docs`` starts from fields that the sample of HellaSwag does not have.
        settings["process_docs"] = None
    for other in ("training_split", *_SPLIT):
        settings[other] = settings.get(other) if settings.get(other) in files else None
    return settings | {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
    }


def _task_file(task: Task, name: str) -> Path:
    if task.folder == "mmlu":
        return Path("mmlu", "default", f"{name}.yaml")
    named = {
        "arc_easy": "arc/arc_easy.yaml",
        "arc_challenge": "arc/arc_challenge.yaml",
        "winogrande": "winogrande/default.yaml",
        "lambada_openai": "lambada/lambada_openai.yaml",
        "boolq": "super_glue/boolq/default.yaml",
    }
    return Path(named.get(name, f"{name}/{name}.yaml"))


def _read_split(settings: dict[str, Any]) -> str:
    """The split that the harness evaluates on."""
    return str(settings.get("test_split") or settings["validation_split"])


def _written(path: Path, rows: Sequence[Row]) -> str:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return os.fspath(path)


def _rows(task: Task, items: Sequence[Item]) -> list[Row]:
    if task.folder == "mmlu":
        questions = _questions(task, items[0].category, "test")
        return [_mmlu_row(questions[int(item.id.rpartition("-")[2]) - 1]) for item in items]
    return [_ROWS[task.name](item) for item in items]


def _questions(task: Task, subject: str, kind: str) -> list[Question]:
    """A subject's questions, from its test or its dev file."""
    for path in task_files(task):
        if subject_of(path.name) == subject and path.stem.endswith(kind):
            return read_questions(path)
    raise ValueError(f"no {kind} file of {subject}")


def _mmlu_row(question: Question) -> Row:
    return {"question": question.text, "choices": question.answers, "answer": question.gold}


def _asked(item: Item) -> str:
    return item.contexts[0].removeprefix("Question: ").removesuffix("\nAnswer:")


def _arc(item: Item) -> Row:
    labels = ["A", "B", "C", "D"]
    return {
        "question": _asked(item),
        "choices": {"text": item.choices, "label": labels},
        "answerKey": labels[item.gold],
    }


def _piqa(item: Item) -> Row:
    return {
        "goal": _asked(item),
        "sol1": item.choices[0],
        "sol2": item.choices[1],
        "label": item.gold,
    }


def _hellaswag(item: Item) -> Row:
    return {"query": item.contexts[0], "choices": item.choices, "label": str(item.gold)}


def _winogrande(item: Item) -> Row:
    one, two = item.contexts
    alike = takewhile(lambda letters: letters[0] == letters[1], zip(one, two, strict=False))
    start = one[: len(list(alike))]
    return {
        "sentence": f"{start}_ {item.choices[0]}",
        "option1": one.removeprefix(start),
        "option2": two.removeprefix(start),
        "answer": str(item.gold + 1),
    }


def _lambada(item: Item) -> Row:
    return {"text": f"{item.contexts[0]} {item.choices[0]}"}


def _boolq(item: Item) -> Row:
    passage, _, question = item.contexts[0].rpartition("\nQuestion: ")
    question = question.removesuffix("?\nAnswer:")
    return {"passage": passage, "question": question, "label": item.gold}


_ROWS: dict[str, Callable[[Item], Row]] = {
    "arc_easy": _arc,
    "arc_challenge": _arc,
    "piqa": _piqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "lambada_openai": _lambada,
    "boolq": _boolq,
}
