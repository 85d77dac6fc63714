"""Loading a model as an unprocessed HookedTransformer: the only importer of transformer_lens.

Weights are never folded, centred or otherwise processed, so hook points see what the
Hugging Face model computes.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpa_interp.architectures import neutral_folder, settings_from_config, unsupported_setting
from lpa_interp.errors import InputError
from lpa_interp.memory import store_as_read
from lpa_interp.sources import ModelSource, find_source, quiet_transformers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformer_lens.loading_from_pretrained as tl_loading
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
    from transformer_lens.hook_points import HookPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["HookPoint", "HookedTransformer", "load_model", "source_of"]

_TL_OWN_MODELS = ("NeelNanda", "ArthurConmy", "Baidicoot")
_SOURCES: WeakKeyDictionary[HookedTransformer, ModelSource] = WeakKeyDictionary()
_WIDE: WeakKeyDictionary[HookedTransformer, tuple[int, Tensor, Tensor]] = WeakKeyDictionary()


def load_model(
    name_or_path: str = "smollm2-135m-instruct",
    device: str = "auto",
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> HookedTransformer:
    """Loads a model with its tokenizer and chat template, weights unprocessed.

    Args:
        name_or_path: The embedded default, a name that TransformerLens knows, a local Hugging
            Face folder or a .gguf file.
        device: ``auto`` takes CUDA, then Apple's MPS, then the CPU.
        dtype: ``float32`` or ``bfloat16``.
        trust_remote_code: Run Python code that ships with the model.

    Raises:
        InputError: No such model, or an architecture that TransformerLens cannot convert.
    """
    source = find_source(name_or_path)
    target = torch.device(pick_device(device))
    with _quiet_transformer_lens():
        if source.is_folder:
            model = _from_folder(source.location, target, dtype, trust_remote_code)
        else:
            source = replace(source, location=official_name(source.location))
            model = _from_name(source.location, target, dtype, trust_remote_code)
    model.eval()
    model.requires_grad_(False)
    _SOURCES[model] = source
    return model


def source_of(model: HookedTransformer) -> ModelSource | None:
    """The source that `load_model` took the model from; None for a model made elsewhere."""
    return _SOURCES.get(model)


def pick_device(device: str) -> str:
    """Resolves ``auto`` and checks that the device is there.

    Raises:
        InputError: The device is not available on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("device", f"{device!r} is not available here", "try auto or cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("device", f"{device!r} is not available here", "try auto or cpu")
    return device


def load_hugging_face(
    location: str, dtype: str, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The Hugging Face model on the CPU, in evaluation mode."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers(Path(location).is_dir()):  # a download keeps its bar
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
    model.train(False)
    return model


def official_name(name: str) -> str:
    """The Hub id that a name stands for: an alias of TransformerLens, or a Hub id as it is.

    Raises:
        InputError: The name is neither.
    """
    try:
        return str(tl_loading.get_official_model_name(name))
    except ValueError:
        if name.count("/") == 1:
            return name
    raise InputError(
        f"model {name!r}",
        "unknown name",
        "the embedded smollm2-135m-instruct, a TransformerLens name, "
        "a Hub id, a Hugging Face folder or a .gguf file",
    )


def _from_name(
    name: str, device: torch.device, dtype: str, trust_remote_code: bool
) -> HookedTransformer:
    """Loads a Hub id; models in TransformerLens' own format through TransformerLens."""
    if not name.startswith(_TL_OWN_MODELS):
        return _from_folder(name, device, dtype, trust_remote_code)
    try:
        model: HookedTransformer = HookedTransformer.from_pretrained_no_processing(
            name, device=str(device), dtype=getattr(torch, dtype), default_padding_side="left"
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model {name}", f"cannot be loaded: {reason}") from error
    store_as_read(model)
    return model


def _from_folder(
    location: str, device: torch.device, dtype: str, trust_remote_code: bool
) -> HookedTransformer:
    from transformers import AutoTokenizer

    try:
        hf_model = load_hugging_face(location, dtype, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model {location}", f"cannot be loaded: {reason}") from error
    return hook_model(hf_model, tokenizer, device, dtype)


def hook_model(
    hf_model: PreTrainedModel, tokenizer: Any, device: torch.device | str, dtype: str
) -> HookedTransformer:
    """Converts a loaded Hugging Face model with TransformerLens' own weight conversion.

    Raises:
        InputError: TransformerLens has no conversion for the architecture.
    """
    settings = _settings(hf_model)
    settings.update(device=str(device), dtype=getattr(torch, dtype), init_weights=False)
    settings.update(default_prepend_bos=_prepends_bos(tokenizer), tokenizer_name=None)
    cfg = HookedTransformerConfig.from_dict(settings)
    with tempfile.TemporaryDirectory() as existing:
        # An existing path keeps TransformerLens from looking the name up in its list.
        weights = tl_loading.get_pretrained_state_dict(
            existing, cfg, hf_model, dtype=getattr(torch, dtype)
        )
    # Given a tokenizer, TransformerLens would load another one that always adds a BOS.
    model = HookedTransformer(cfg, tokenizer=None, move_to_device=False)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos
    model.to(device, print_details=False)
    store_as_read(model)
    return model


def _settings(hf_model: PreTrainedModel) -> dict[str, Any]:
    """HookedTransformerConfig keys from the Hugging Face configuration."""
    config = hf_model.config
    if not config.architectures:
        config.architectures = [type(hf_model).__name__]
    settings = settings_from_config(config) or _transformer_lens_settings(config)
    left_out = unsupported_setting(config, settings)
    if left_out is not None:
        raise InputError(
            f"architecture {config.architectures[0]}", f"TransformerLens leaves out {left_out}"
        )
    return settings | {"model_name": config.model_type}


def _transformer_lens_settings(config: Any) -> dict[str, Any]:
    """What TransformerLens itself makes of the configuration."""
    if config.model_type == "gpt2":
        config.n_ctx = config.n_positions  # transformers 5 dropped it, TransformerLens reads it
    try:
        with neutral_folder() as folder:
            config.save_pretrained(folder)
            settings: dict[str, Any] = tl_loading.convert_hf_model_config(folder)
    except (NotImplementedError, AttributeError, KeyError) as error:
        raise InputError(
            f"architecture {config.architectures[0]}", "TransformerLens cannot convert it"
        ) from error
    settings["n_ctx"] = config.max_position_embeddings  # TransformerLens caps some at 2048
    head = getattr(config, "head_dim", None)
    if head and settings.get("rotary_dim") == settings["d_head"] != head:
        settings.update(d_head=head, rotary_dim=head)
    return settings


def _prepends_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a").input_ids)[:1] == [bos]


@contextlib.contextmanager
def _quiet_transformer_lens() -> Iterator[None]:
    """Keeps TransformerLens' deprecation notice and its prints off the user's screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def last_logits(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    n_last: int = 1,
    cache: TransformerLensKeyValueCache | None = None,
) -> Float[Tensor, "batch n_last d_vocab"]:
    """Logits at the last ``n_last`` positions only: the unembedding is the widest product.

    Hooks that are open on the model take part; those on ``ln_final`` see the last positions.
    """
    resid = model(
        tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers, past_kv_cache=cache
    )
    return unembed(model, resid[:, -n_last:])


def unembed(
    model: HookedTransformer, resid: Float[Tensor, "batch pos d_model"], wide: bool = False
) -> Float[Tensor, "batch pos d_vocab"]:
    """Final norm, unembedding and soft cap of the last block's residual stream.

    ``wide`` computes the logits in float32 where the model computes in bfloat16, whose rounding
    of a logit of 20 is 0.06 nats.
    """
    if model.cfg.normalization_type is not None:
        resid = model.ln_final(resid)
    if wide and resid.dtype != torch.float32 and resid.dtype != torch.float64:
        weight, bias = _wide_unembedding(model)
        logits = torch.nn.functional.linear(resid.float(), weight.T, bias)
    else:
        logits = model.unembed(resid)
    cap = model.cfg.output_logits_soft_cap
    if cap is not None and cap > 0:
        logits = cap * torch.tanh(logits / cap)
    return logits


def _wide_unembedding(model: HookedTransformer) -> tuple[Tensor, Tensor]:
    """A float32 copy of the unembedding, made again when the weight has changed."""
    weight, kept = model.unembed.W_U, _WIDE.get(model)
    if kept is None or kept[0] != weight._version:
        kept = (weight._version, weight.detach().float(), model.unembed.b_U.detach().float())
        _WIDE[model] = kept
    return kept[1], kept[2]


def new_cache(model: HookedTransformer, batch_size: int) -> TransformerLensKeyValueCache:
    """An empty key-value cache for `last_logits`."""
    cache: TransformerLensKeyValueCache = TransformerLensKeyValueCache.init_cache(
        model.cfg, model.cfg.device, batch_size
    )
    return cache
