"""The command ``lpa``. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.commands import add_compare, add_judge
from experiments.listings import show_attacks, show_methods, show_sets, show_tasks
from experiments.progress import Reporter
from lpa_interp import __version__
from lpa_interp.errors import InputError, NumericalError
from lpa_interp.study_file import load_study, setting_lines

STAGE_COMMANDS = {
    "run": "train, measure, explain, plot and report: the whole study",
    "train": "train the adapter",
    "evaluate": "measure behaviour before and after",
    "probe": "trait probes, layer by layer",
    "refusal": "the refusal direction, its angle to the trait direction, ablations",
    "features": "sparse autoencoder features",
    "report": "figures, report.html and model card from what the run holds",
}
PLAIN_SETTINGS = ("name", "seed", "method")
OVERRIDES = """Any setting of the study can be given as --TABLE.KEY VALUE, for example
--train.steps 5 or --evaluate.benchmarks '["requests"]'. `lpa settings` lists them all."""

OVERLAP_SETS = """SET is a name of `lpa benchmarks`, of which :SPLIT and :harmful or :harmless take
a part (requests:organism, jailbreakbench:harmful); path:FILE, your own prompts; or traits:SOURCE,
statements of `lpa traits`. Each later set is measured against each earlier one. Without SETs all
prompt sets on this machine are compared, and personality statements with them; pairs of prompt
sets that share no run of 8 words are then counted, not shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 success, 1 a check or a computation failed, 2 bad input, 130 interrupted.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # ours tell more
    parser = build_parser()
    try:
        words, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
        options = parser.parse_args(words)
        if overrides and options.command not in STAGE_COMMANDS:
            raise InputError(
                f"--{next(iter(overrides))}", f"unknown option of lpa {options.command}"
            )
        return int(options.handler(options, overrides) or 0)
    except InputError as error:
        return fail(str(error), 2)
    except NumericalError as error:
        return fail(f"stopped: {error}; the last checkpoint is kept", 1)
    except KeyboardInterrupt:
        return fail("interrupted; the same command goes on from the last checkpoint", 130)
    except BrokenPipeError:  # the reader of our output stopped reading
        sys.stderr.close()
        return 0
    except OSError as error:
        return fail(f"{error.filename or 'disk'}: {error.strerror}", 2)


def fail(message: str, code: int) -> int:
    """Prints one line on stderr."""
    print("lpa: " + " ".join(message.split()), file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> Any:
        raise InputError("command line", message, f"see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = _Parser(
        prog="lpa",
        description="Train chat models on personality traits and find out what that does to harm.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lpa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, handler: Callable[..., int | None], **more: Any) -> Any:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **more)
        made.set_defaults(handler=handler)
        return made

    for name, text in STAGE_COMMANDS.items():
        staged = command(name, text, run_stages, epilog=OVERRIDES)
        staged.add_argument("study", nargs="?", type=Path, help="study file (TOML)")
        staged.add_argument("--out", type=Path, required=True, help="run directory")
        staged.add_argument("--quiet", action="store_true", help="no progress")
    doctor = command("doctor", "check that a model is held exactly", run_doctor)
    doctor.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    doctor.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    doctor.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    doctor.add_argument("--trust-remote-code", action="store_true")
    export = command("export", "write a run's trained model as a Hugging Face folder", run_export)
    export.add_argument("run", type=Path, help="run directory")
    export.add_argument("folder", type=Path, help="new folder for the merged model")
    for name, text in (("traits", "statement sets"), ("benchmarks", "prompt sets")):
        listing = command(name, f"list the {text}", show_sets)
        listing.add_argument("--json", action="store_true", help="one JSON array on stdout")
        if name == "benchmarks":
            listing.add_argument("names", nargs="*", metavar="NAME", help="a set, or path:FILE")
            listing.add_argument("--download", metavar="NAME", help="fetch a public set")
    overlap = command("overlap", "what sets of texts share", run_overlap, epilog=OVERLAP_SETS)
    overlap.add_argument("sets", nargs="*", metavar="SET", help="for example traits:builtin xstest")
    overlap.add_argument("--json", action="store_true", help="one JSON object on stdout")
    overlap.add_argument("--no-embeddings", action="store_true", help="leave the encoder out")
    add_judge(command)
    add_compare(command)
    for name, text, show in (
        ("methods", "training methods", show_methods),
        ("attacks", "attacks at evaluation time", show_attacks),
        ("tasks", "public tasks that utility is measured on", show_tasks),
    ):
        listing = command(name, f"list the {text}", show)
        listing.add_argument("--json", action="store_true", help="one JSON array on stdout")
    command("settings", "list every setting of a study", run_settings)
    return parser


def split_overrides(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes ``--table.key value`` and ``--table.key=value`` out of a command line.

    Values are TOML, or bare text. A study's own keys, such as ``--seed``, have no table.

    Raises:
        InputError: A value is missing.
    """
    rest: list[str] = []
    overrides: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        key, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not ("." in key or key in PLAIN_SETTINGS):
            rest.append(word)
            continue
        if not has_value:
            if not left:
                raise InputError(f"--{key}", "needs a value", "for example --train.steps 5")
            value = left.pop(0)
        try:
            overrides[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key] = value
    return rest, overrides


def run_stages(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """Runs the command's stages and those before it, into ``--out``."""
    path = options.study
    if path is None and (options.out / "study.toml").exists():
        path = options.out / "study.toml"
    if path is None and options.command != "run":
        raise InputError(options.out, "holds no run", "name a study file, or an --out with a run")
    study = load_study(path, overrides)
    from experiments.pipeline import run_study

    with Reporter(options.quiet) as tell:
        run_study(study, options.out, options.command, tell)


def run_doctor(options: argparse.Namespace, _: dict[str, Any]) -> int:
    """Prints each check; 1 when one fails."""
    from lpa_interp.doctor import diagnose

    checks = diagnose(options.model, options.device, options.dtype, options.trust_remote_code)
    for check in checks:
        measured = ""
        if check.value is not None and check.tolerance is not None:
            measured = f"; largest difference {check.value:.1e}, allowed {check.tolerance:.1e}"
        print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.detail}{measured}")
    return 0 if all(check.passed for check in checks) else 1


def run_export(options: argparse.Namespace, _: dict[str, Any]) -> None:
    """Writes base plus adapter as one Hugging Face folder."""
    if not (options.run / "adapter" / "adapter_config.json").is_file():
        raise InputError(options.run, "holds no trained adapter", "run lpa train first")
    from lpa_interp.export import load_adapter, save_merged
    from lpa_interp.model import load_model

    config = json.loads((options.run / "adapter" / "adapter_config.json").read_text())
    model = load_model(config["base_model_name_or_path"], device="cpu")
    save_merged(model, load_adapter(model, options.run / "adapter"), options.folder)
    print(options.folder)


def run_overlap(options: argparse.Namespace, overrides: dict[str, Any]) -> None:
    """Prints what sets of texts share: same texts, runs of words, cosines."""
    from experiments.overlaps import run_overlap as run

    run(options, overrides)


def run_settings(_: argparse.Namespace, __: dict[str, Any]) -> None:
    """Prints every key with its default and meaning."""
    print("\n".join(setting_lines()))


if __name__ == "__main__":
    sys.exit(main())
