"""The options of ``lpa judge`` and ``lpa compare``; their work is imported when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

JUDGES = (
    "keyword, harm_terms (word lists, weak), parroting, strongreject (a chat model behind "
    "--endpoint), classifier:NAME (Hugging Face), human:FILE.csv, judgezoo:NAME"
)


def add_judge(command: Any) -> None:
    """Adds ``lpa judge``; ``command`` makes a parser from a name, a text and a handler."""
    text = "judge a run's completions again, or compare two of its judges"
    parser = command("judge", text, run_judge)
    parser.add_argument("run", type=Path, help="run directory")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--judge", metavar="NAME", help=JUDGES)
    what.add_argument("--agreement", nargs=2, metavar=("A", "B"), help="two judges of the run")
    parser.add_argument("--threshold", type=float, help="agreement: score from which 1 counts")
    parser.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible; or LPA_JUDGE_URL")
    parser.add_argument("--judge-model", metavar="NAME", help="its model; or LPA_JUDGE_MODEL")
    parser.add_argument(
        "--key-name", metavar="VARIABLE", help="holds its key; or LPA_JUDGE_KEY_NAME; none: no key"
    )
    parser.add_argument("--request-options", metavar="JSON", help="added to each request's body")
    parser.add_argument("--workers", type=int, default=4, help="requests at the same time")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without an answer")
    parser.add_argument("--harmful-label", metavar="LABEL", help="of a classifier")
    parser.add_argument("--with-request", action="store_true", help="classifier reads both texts")
    parser.add_argument("--again", action="store_true", help="ask anew what is answered already")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def add_compare(command: Any) -> None:
    """Adds ``lpa compare``."""
    text = "compare runs: values, paired differences, error ratios, spread over seeds"
    parser = command("compare", text, run_compare)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run directory, in the order of the pairs: an error ratio has the earlier run above",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write tables and pictures")


def run_judge(options: argparse.Namespace, _: dict[str, Any]) -> int:
    """Runs ``lpa judge``."""
    from experiments.judge import judge_run

    return judge_run(options)


def run_compare(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Runs ``lpa compare``."""
    from experiments.compare import compare_runs

    compare_runs(options.runs, options.out, options.json)
