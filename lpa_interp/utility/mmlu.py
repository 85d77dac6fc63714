"""MMLU: 57 subjects, each with a test file and five worked examples (dev).

The harness's prompt, with the dev examples before it where there are shots::

    The following are multiple choice questions (with answers) about abstract algebra.

    {question}
    A. {first}
    B. {second}
    C. {third}
    D. {fourth}
    Answer:

Compared are the continuations `` A``, `` B``, `` C`` and `` D``. A worked example ends with its
letter, and a blank line follows it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lpa_interp.errors import InputError
from lpa_interp.prompt_sets.benchmark import BenchmarkFile, pinned
from lpa_interp.tables import read_csv, read_text, shipped_file
from lpa_interp.utility.readers import LETTERS, letter_index
from lpa_interp.utility.task import Item

N_SHOTS = 5
HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]
_ORIGINAL = ("xetdata/LLM_Evolution", "60895c6a0471f7387e43956698caff94a035bc44")
_CONVERTED = ("HaeChan0305/MLILAB-FedLLM", "d92730e8bacd7b3a61e551e015e40588e10234b4")


@dataclass(frozen=True, slots=True)
class Question:
    """A question as its file has it: four answers, and the index of the correct one."""

    text: str
    answers: tuple[str, ...]
    gold: int

    @property
    def prompt(self) -> str:
        """Question and answers, up to where the letter goes."""
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, self.answers, strict=True)]
        return "\n".join([self.text.strip(), *lines, "Answer:"])

    @property
    def worked(self) -> str:
        """The same with its letter, as an example before other questions."""
        return f"{self.prompt} {LETTERS[self.gold]}\n\n"


def mmlu_files(dev: bool) -> tuple[BenchmarkFile, ...]:
    """The pinned test files of all subjects in order; after them the dev files if ``dev``.

    Five test files are a third party's conversion, with a header and answers 0 to 3: the copy
    of the original layout lacks them.
    """
    rows = read_csv(shipped_file("mmlu_files.csv"), ("file", "sha256"))
    files = [_pinned(row["file"], row["sha256"]) for _, row in rows]
    tests = sorted((file for file in files if not _is_dev(file)), key=lambda f: subject_of(f.name))
    return (*tests, *(file for file in files if dev and _is_dev(file)))


def read_mmlu(paths: Sequence[Path]) -> list[Item]:
    """All subjects, the category of an item, without worked examples: from the test files."""
    return [item for path in paths for item in _items(path, [])]


def read_mmlu_with_shots(paths: Sequence[Path]) -> list[Item]:
    """All subjects with the subject's five dev examples: from the test files, then the dev files.

    Raises:
        InputError: A dev file holds fewer than five questions.
    """
    half = len(paths) // 2
    items = []
    for test, dev in zip(paths[:half], paths[half:], strict=True):
        if subject_of(test.name) != subject_of(dev.name):
            raise ValueError(f"{dev.name} does not belong to {test.name}")
        shots = read_questions(dev)[:N_SHOTS]
        if len(shots) < N_SHOTS:
            raise InputError(dev, f"holds {len(shots)} questions", f"{N_SHOTS} or more")
        items += _items(test, shots)
    return items


def _items(path: Path, shots: Sequence[Question]) -> list[Item]:
    subject = subject_of(path.name)
    about = subject.replace("_", " ")
    lead = f"The following are multiple choice questions (with answers) about {about}.\n\n"
    lead += "".join(question.worked for question in shots)
    return [
        Item(
            id=f"mmlu-{subject}-{number:04d}",
            contexts=(lead + question.prompt,),
            choices=tuple(LETTERS),
            gold=question.gold,
            category=subject,
        )
        for number, question in enumerate(read_questions(path), start=1)
    ]


def read_questions(path: Path) -> list[Question]:
    """Rows of question, four answers and a letter, or of the converted layout.

    Raises:
        InputError: A row is another, or the file is not csv.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    questions, converted = [], False
    try:
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            if reader.line_num == 1 and fields == HEADER:
                converted = True
                continue
            if len(fields) != len(HEADER) or not all(field.strip() for field in fields):
                raise InputError(place, "is not a question", "question, four answers, the letter")
            letter = _letter(place, fields[-1]) if converted else fields[-1]
            gold = letter_index(place, letter)
            questions.append(Question(fields[0], tuple(fields[1:5]), gold))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}", f"is not csv: {error}") from None
    if not questions:
        raise InputError(path, "holds no questions")
    return questions


def _letter(place: str, number: str) -> str:
    if number not in ("0", "1", "2", "3"):
        raise InputError(place, f"the answer is {number!r:.40}", "0 to 3")
    return LETTERS[int(number)]


def _pinned(name: str, sha256: str) -> BenchmarkFile:
    if name.startswith("test_converted/"):
        path = f"data/mmlu/test/{name.removeprefix('test_converted/')}"
        return pinned(name, sha256, *_CONVERTED, path)
    return pinned(name, sha256, *_ORIGINAL, f"data/mmlu/{name}")


def _is_dev(file: BenchmarkFile) -> bool:
    return file.name.startswith("dev/")


def subject_of(name: str) -> str:
    """The subject of a test or dev file."""
    return Path(name).stem.removesuffix("_test").removesuffix("_dev")
