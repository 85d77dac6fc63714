"""Sparse autoencoders: the only importer of sae_lens (inside functions: its import is slow).

A SAE is trained with SAELens' own trainer on any HookedTransformer, or loaded pretrained. The
first position of a sequence is left out everywhere, in training and in reading: it is the
attention sink, whose activations are tens of times longer than any other and say nothing of
the text. A SAE trained on one model may be read on another only beside its `SaeQuality` there.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lpa_interp.chat import Row, tokenize, tokenizer_of
from lpa_interp.config import FeatureConfig
from lpa_interp.errors import InputError
from lpa_interp.hooks import require_d_model, resolve_hooks
from lpa_interp.model import HookedTransformer
from lpa_interp.runs import content_hash
from lpa_interp.sources import cache_folder, complete_folder

BATCH_TOKENS = 256
"""Tokens per update of the SAE: small, so that a short run has hundreds of updates."""
PROMPTS_PER_PASS = 8
BUFFER_CONTEXTS = 128
"""Contexts in the shuffling buffer."""

Sae = Any
"""A SAELens SAE; the class cannot be named here without importing sae_lens."""


def train_sae(
    model: HookedTransformer,
    texts: Sequence[str],
    config: FeatureConfig,
    seed: int,
    model_key: str,
    folder: Path | None = None,
) -> Sae:
    """Trains a TopK SAE on a model's activations, or finds the one that was trained before.

    Args:
        model: The model to read, frozen.
        texts: Training texts, formatted as the model will see them (chat template included).
            They are shuffled, packed into contexts, and repeated until
            ``config.training_tokens`` have been read.
        config: Hook point, width, k, tokens, learning rate.
        seed: Of the shuffles and the initial weights.
        model_key: Says which weights the model holds, such as their hash; part of the cache key.
        folder: Where the SAE is kept, in SAELens' own format. Defaults to a folder in the
            cache named by the hash of everything above.

    Returns:
        The SAE for inference, loaded from the folder.

    Raises:
        InputError: Too few texts for one context, or a hook point that is not one vector.
    """
    hook_name = sae_hook(model, config.hook_name)
    if folder is None:
        made_of = (config.model_dump(), list(texts), seed, model_key, BATCH_TOKENS)
        folder = cache_folder() / "autoencoders" / content_hash(made_of)
    if not (folder / "cfg.json").is_file():
        contexts = packed_contexts(model, texts, config.context_size, seed)
        with complete_folder(folder) as unfinished, _quiet_sae_lens(), _seeded(seed):
            trained = _run_trainer(model, contexts, config, hook_name, seed)
            trained.cfg.metadata.n_training_tokens = config.training_tokens
            trained.save_inference_model(str(unfinished))
    return load_sae(folder, str(model.cfg.device))


def load_sae(folder: Path, device: str = "cpu") -> Sae:
    """Loads a SAE from a folder in SAELens' format.

    Raises:
        InputError: The folder does not hold one.
    """
    if not (folder / "cfg.json").is_file():
        raise InputError(folder, "does not hold a SAE", "cfg.json and sae_weights.safetensors")
    with _quiet_sae_lens():
        from sae_lens import SAE

        return SAE.load_from_disk(str(folder), device=device).eval().requires_grad_(False)


def load_pretrained(release: str, sae_id: str, device: str = "cpu") -> Sae:
    """Loads a SAE of a SAELens release (a name on its list, or a Hub id).

    Raises:
        InputError: No such release or id, or it cannot be downloaded.
    """
    with _quiet_sae_lens():
        from sae_lens import SAE

        try:
            sae = SAE.from_pretrained(release, sae_id, device=device)
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"SAE {release}/{sae_id}", f"cannot be loaded: {reason}") from error
        return sae.eval().requires_grad_(False)


def sae_hook(model: HookedTransformer, pattern: str) -> str:
    """The one hook point that a pattern stands for.

    Raises:
        InputError: It stands for none or several, or for one without d_model.
    """
    names = resolve_hooks(model, [pattern])
    require_d_model(names)
    if len(names) != 1:
        raise InputError(f"features.hook_name {pattern!r}", "is more than one hook point", names[0])
    return names[0]


def packed_contexts(
    model: HookedTransformer, texts: Sequence[str], context_size: int, seed: int
) -> list[Row]:
    """Texts shuffled, tokenized and packed into full contexts, each of which begins a text.

    A context that begins inside a text can move the attention sink to its second token. What
    no longer fits a context is dropped; longer texts are cut into pieces that begin with BOS.

    Raises:
        InputError: The texts do not fill one context.
    """
    bos = tokenizer_of(model).bos_token_id
    order = np.random.default_rng(seed).permutation(len(texts))
    contexts, current = [], list[int]()
    for index in order:
        row = tokenize(model, texts[index])
        for start in range(0, len(row), context_size):
            piece = row[start : start + context_size]
            current += [bos, *piece] if start and bos is not None else piece
            if len(current) >= context_size:
                contexts.append(current[:context_size])
                current = []
    if not contexts:
        needed = f"at least {context_size} are needed for one context"
        raise InputError("texts", f"{len(current)} tokens are too few for a SAE", needed)
    return contexts


def _run_trainer(
    model: HookedTransformer,
    contexts: list[Row],
    config: FeatureConfig,
    hook_name: str,
    seed: int,
) -> Sae:
    from datasets import Dataset
    from sae_lens import LanguageModelSAETrainingRunner

    settings = _runner_settings(model, config, hook_name, seed)
    dataset = Dataset.from_dict({"tokens": contexts})
    runner: Any = LanguageModelSAETrainingRunner(
        settings, override_dataset=dataset, override_model=model
    )
    # The runner's own method replaces the process's signal handlers and leaves them replaced.
    runner.run_trainer_with_interruption_handling = lambda trainer: trainer.fit()
    return runner.run()


def _runner_settings(
    model: HookedTransformer, config: FeatureConfig, hook_name: str, seed: int
) -> Any:
    from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig

    steps = config.training_tokens // BATCH_TOKENS
    device = str(model.cfg.device)
    # Packed contexts have no padding, whatever token the tokenizer pads with.
    mask = torch.ones(PROMPTS_PER_PASS, config.context_size, dtype=torch.long, device=device)
    return LanguageModelSAERunnerConfig(
        sae=_sae_settings(model, config),
        model_name=str(model.cfg.model_name),
        model_from_pretrained_kwargs={},
        hook_name=hook_name,
        dataset_path="texts",
        streaming=False,
        context_size=config.context_size,
        seqpos_slice=(1, None),
        training_tokens=config.training_tokens,
        store_batch_size_prompts=PROMPTS_PER_PASS,
        n_batches_in_buffer=BUFFER_CONTEXTS,
        train_batch_size_tokens=BATCH_TOKENS,
        n_batches_for_norm_estimate=8,
        lr=config.learning_rate,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        dead_feature_window=max(steps // 10, 20),
        device=device,
        act_store_device=device,
        seed=seed,
        model_kwargs={"attention_mask": mask},
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=None,
        verbose=False,
    )


def _sae_settings(model: HookedTransformer, config: FeatureConfig) -> Any:
    from sae_lens import TopKTrainingSAEConfig

    return TopKTrainingSAEConfig(
        d_in=model.cfg.d_model,
        d_sae=config.n_features,
        k=config.k,
        device=str(model.cfg.device),
        # Scales activations to unit mean square per dimension while training, so that one
        # learning rate serves all models; folded into the weights afterwards.
        normalize_activations="expected_average_only_in",
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generator, which SAELens draws from, and then restores it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet_sae_lens() -> Iterator[None]:
    """Keeps notices off the screen; the progress bar stays, on stderr, where that is a terminal."""
    logger = logging.getLogger("sae_lens")
    level = logger.level
    bar = sys.stderr if sys.stderr.isatty() else io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),
        contextlib.redirect_stderr(bar),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
