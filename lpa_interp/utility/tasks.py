"""The tasks of the price side: what LPA might cost a model in knowledge and common sense.

All are zero-shot but ``mmlu-5shot``. `lpa_interp.utility.loading` finds their files.
"""

from __future__ import annotations

from functools import partial

from lpa_interp.prompt_sets.benchmark import RECALLED, BenchmarkFile, pinned
from lpa_interp.utility.mmlu import mmlu_files, read_mmlu, read_mmlu_with_shots
from lpa_interp.utility.readers import (
    question_reader,
    read_hellaswag,
    read_lambada,
    read_winogrande,
)
from lpa_interp.utility.task import (
    GREEDY_JUDGE,
    LIKELIHOOD_JUDGE,
    PER_CHARACTER_JUDGE,
    TARGET_LOSS_JUDGE,
    Task,
)

_BOTH = (LIKELIHOOD_JUDGE, PER_CHARACTER_JUDGE)


def _foundry(name: str, group: str, sha256: str) -> tuple[BenchmarkFile, ...]:
    """A file of llm-foundry's evaluation data."""
    repository = ("mosaicml/llm-foundry", "8c8dd48f72168c5d51e2f7b151595892a8fba43d")
    file = f"{name}.jsonl"
    return (pinned(file, sha256, *repository, f"scripts/eval/local_data/{group}/{file}"),)


_in_foundry = partial(Task, folder="llm_foundry")
_arc = partial(
    _in_foundry,
    judges=_BOTH,
    prompt="Question: {question}\nAnswer: {choice}",
    licence=f"CC-BY-SA-4.0 ({RECALLED})",
    citation="Clark et al. 2018, ARC, arXiv 1803.05457",
)
_mmlu = partial(
    Task,
    folder="mmlu",
    judges=(LIKELIHOOD_JUDGE,),
    source="MMLU, 57 test files; five of them a third party's conversion",
    licence=f"MIT ({RECALLED})",
    citation="Hendrycks et al. 2021, MMLU, arXiv 2009.03300",
    note="subjects count by their number of questions",
)
_ABOUT = "The following are multiple choice questions (with answers) about {subject}.\n\n"
_LETTERED = "{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer: {letter}"

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _arc(
            name="arc_easy",
            files=_foundry(
                "arc_easy",
                "world_knowledge",
                "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
            ),
            read=question_reader("arc_easy"),
            source="ARC-Easy, test",
        ),
        _arc(
            name="arc_challenge",
            files=_foundry(
                "arc_challenge",
                "world_knowledge",
                "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
            ),
            read=question_reader("arc_challenge"),
            source="ARC-Challenge, test",
        ),
        _in_foundry(
            name="piqa",
            files=_foundry(
                "piqa",
                "commonsense_reasoning",
                "d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0",
            ),
            read=question_reader("piqa", end="\n"),
            judges=_BOTH,
            prompt="Question: {goal}\nAnswer: {solution}",
            source="PIQA, validation",
            licence=f"AFL-3.0 ({RECALLED})",
            citation="Bisk et al. 2020, PIQA, arXiv 1911.11641",
        ),
        Task(
            name="hellaswag",
            folder="hellaswag",
            files=(
                pinned(
                    "hellaswag.json",
                    "6c2e7ab3dcbf800cb02b598e2a6fb9180163daf81a85eebd1c2079a83bba58e9",
                    "BunsenFeng/AbstainQA",
                    "283c10bb3294d130359937ddd1c695df6782a795",
                    "data/hellaswag.json",
                ),
            ),
            read=read_hellaswag,
            judges=_BOTH,
            prompt="{context} {ending}",
            source="HellaSwag, the test part of AbstainQA's sample",
            licence=f"MIT ({RECALLED})",
            citation="Zellers et al. 2019, HellaSwag, arXiv 1905.07830",
            note=(
                "1,000 items, without the activity label that the harness puts first and with "
                "the last words of the context not capitalised: published numbers do not compare"
            ),
        ),
        _in_foundry(
            name="winogrande",
            files=_foundry(
                "winogrande",
                "language_understanding",
                "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
            ),
            read=read_winogrande,
            judges=(LIKELIHOOD_JUDGE,),
            prompt="{beginning with a name} {ending}; the ending is scored",
            source="WinoGrande XL, validation",
            licence=f"CC-BY ({RECALLED})",
            citation="Sakaguchi et al. 2020, WinoGrande, arXiv 1907.10641",
        ),
        _in_foundry(
            name="lambada_openai",
            files=_foundry(
                "lambada_openai",
                "language_understanding",
                "411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
            ),
            read=read_lambada,
            judges=(GREEDY_JUDGE, TARGET_LOSS_JUDGE),
            prompt="{passage} {last word}",
            source="LAMBADA as cut by OpenAI, test",
            licence=f"CC-BY-4.0 ({RECALLED})",
            citation="Paperno et al. 2016, LAMBADA, arXiv 1606.06031",
        ),
        _in_foundry(
            name="boolq",
            files=_foundry(
                "boolq",
                "reading_comprehension",
                "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
            ),
            read=question_reader("boolq", lead="Passage: "),
            judges=(LIKELIHOOD_JUDGE,),
            prompt="{passage}\nQuestion: {question}?\nAnswer: {no or yes}",
            source="BoolQ, validation",
            licence=f"CC-BY-SA-3.0 ({RECALLED})",
            citation="Clark et al. 2019, BoolQ, arXiv 1905.10044",
            note="the passages have no title before them, as they have in SuperGLUE",
        ),
        _mmlu(
            name="mmlu",
            files=mmlu_files(dev=False),
            read=read_mmlu,
            prompt=_ABOUT + _LETTERED,
        ),
        _mmlu(
            name="mmlu-5shot",
            files=mmlu_files(dev=True),
            read=read_mmlu_with_shots,
            prompt=f"{_ABOUT}{{five times: {_LETTERED}\n\n}}{_LETTERED}",
        ),
    )
}
"""Every task by name; names and prompts are those of the LM Evaluation Harness."""
