"""`interp.load`: an embedded name, a hub id, a directory or a model in memory becomes a probed `Model`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, PretrainedConfig, PreTrainedModel

from interp.errors import InputError
from interp.model.embedded import embedded_path
from interp.model.model import Model

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32,
    "float16": torch.float16, "fp16": torch.float16,
    "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float64": torch.float64, "fp64": torch.float64,
}  # fmt: skip


def load(
    model: str | Path | PreTrainedModel,
    tokenizer: Any = None,
    *,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model and check that its attention can be read and edited faithfully.

    Arguments:
        model: an embedded name (``"mini"``), a hub id, a local directory, or a Hugging Face model in memory (which is
            put into eval mode).
        tokenizer: for a model in memory, or to replace the one that comes with the checkpoint.
        device: such as ``"cpu"`` or ``"cuda:0"``; None for CUDA where there is one, else the CPU. A model in memory
            stays where it is.
        dtype: such as ``"bfloat16"``; None for the checkpoint's own.
        revision: branch, tag or commit of a hub id.
        device_map: passed to transformers, ``"auto"`` spreads a large model over devices (excludes `device`).
        trust_remote_code: run code that comes with a checkpoint.

    Raises:
        InputError: nothing usable under that name, a broken directory, a device that is not there.
        ModelNotSupported: the probe refused the model; the message names the failed check.

    Example:
        >>> import interp
        >>> model = interp.load("mini")
        >>> model.n_heads
        8
    """
    if isinstance(model, PreTrainedModel):
        if dtype is not None or device_map is not None:
            raise InputError(
                "dtype and device_map choose how weights are read; this model is in memory. Leave them out."
            )
        if device is not None:
            model.to(_device(device))  # pyright: ignore[reportArgumentType]
        return Model(model, tokenizer, processor=processor, name=model.config.name_or_path or type(model).__name__)
    if device is not None and device_map is not None:
        raise InputError("Both device and device_map were given; they contradict each other. Give one of them.")
    name = str(model)
    path = embedded_path(name)
    source = str(path) if path is not None else name
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = _config(source, name, hub)
    hf = _weights(source, name, config, hub, _dtype(dtype), device_map)
    if device_map is None:
        hf.to(_device(device))  # pyright: ignore[reportArgumentType]
    takes_images = hf.main_input_name == "pixel_values" or hasattr(config, "vision_config")
    if processor is None and takes_images:
        processor = _processor(source, hub)
    if tokenizer is None and hf.main_input_name != "pixel_values":
        tokenizer = _tokenizer(source, name, hub)
    return Model(
        hf, tokenizer, name=name, processor=processor, revision=getattr(config, "_commit_hash", None) or revision
    )


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"Device {device!r} is unknown to torch. Use 'cpu', 'cuda' or 'cuda:N'.") from error
    if wanted.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=wanted).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            raise InputError(f"Device {str(device)!r} cannot be used by this build of torch. Use 'cpu'.") from error
    if wanted.type == "cuda" and (not torch.cuda.is_available() or (wanted.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"Device {str(device)!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA devices. "
            "Use --device cpu (device='cpu'), or install a CUDA build of torch and check CUDA_VISIBLE_DEVICES."
        )
    return wanted


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | str:
    if dtype is None:
        return "auto"
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise InputError(f"Dtype {dtype!r} is unknown. Use one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _config(source: str, name: str, hub: dict[str, Any]) -> PretrainedConfig:
    if not source.strip():
        raise InputError("The name of the model is empty. Give an embedded name, a hub id or a directory.")
    directory = Path(source)
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise InputError(
            f"The directory {name} holds no config.json, so it is not a Hugging Face model. Check the path."
        )
    if directory.is_file():
        raise InputError(f"{name} is a file. Give the directory that holds config.json and the weights.")
    if not directory.is_dir() and (directory.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise InputError(f"There is no directory {name}. Check the path, or give a hub id such as 'gpt2'.")
    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except (OSError, ValueError, json.JSONDecodeError, StrictDataclassError) as error:
        if directory.is_dir():
            raise InputError(
                f"{name}/config.json cannot be used: {_first_line(error)} Repair or replace it."
            ) from error
        raise InputError(
            f"{name!r} is not an embedded model, not a directory, not in the local Hugging Face cache, and "
            "the hub could not be asked for it. Check the spelling and the network, or give a directory; "
            "`interp models` lists what is here."
        ) from error
    if not config.architectures:
        raise InputError(
            f"The config.json of {name} names no architecture, so its class is unknown. "
            'Add "architectures": ["LlamaForCausalLM"] (or whichever it is).'
        )
    return config


def _weights(
    source: str, name: str, config: PretrainedConfig, hub: dict[str, Any], dtype: Any, device_map: Any
) -> PreTrainedModel:
    wanted = config.architectures[0] if config.architectures else ""
    cls: Any = getattr(transformers, wanted, None)
    if cls is None and hub["trust_remote_code"]:
        cls = transformers.AutoModelForCausalLM
    if cls is None:
        raise InputError(
            f"{name} wants the class {wanted}, which transformers {transformers.__version__} does not "
            "have. Upgrade transformers, or pass trust_remote_code=True if the checkpoint brings code that you trust."
        )
    try:
        hf, report = cls.from_pretrained(
            source, dtype=dtype, device_map=device_map, output_loading_info=True, use_safetensors=True, **hub
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise InputError(
            f"The weights of {name} cannot be read: {_first_line(error)} Expected complete safetensors files that "
            "match config.json; download or copy them again."
        ) from error
    missing = sorted(report["missing_keys"]) + sorted(str(entry) for entry in report.get("mismatched_keys", ()))
    if missing:
        raise InputError(
            f"The weights of {name} lack or misfit {len(missing)} tensors of {wanted} "
            f"({missing[0]}, ...), which would be random. Check that config.json and the weights belong together."
        )
    surplus = _surplus(hf, report["unexpected_keys"])
    if surplus:
        raise InputError(
            f"The weights of {name} hold {len(surplus)} tensors of layers that its config.json does not have "
            f"({surplus[0]}, ...), so the model would be cut short. Check that config.json and the weights belong "
            "together."
        )
    return hf


def _surplus(hf: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Tensors left over that are named like those of the model but for a number."""
    shapes = {re.sub(r"\d+", "*", key) for key in hf.state_dict()}
    return sorted(key for key in unexpected if re.sub(r"\d+", "*", key) in shapes)


def _tokenizer(source: str, name: str, hub: dict[str, Any]) -> Any:
    fix = "Put tokenizer.json and tokenizer_config.json beside the weights, or pass tokenizer=."
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, **hub)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name} comes without a usable tokenizer ({_first_line(error)}) {fix}") from error
    # Where its files are missing, some families get a tokenizer of special tokens and, at most, a space.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise InputError(f"{name} comes without a usable tokenizer (it knows no words). {fix}")
    return tokenizer


def _processor(source: str, hub: dict[str, Any]) -> Any:
    """The processor, where it can be had; images then have to be given as tensors otherwise."""
    try:
        return AutoProcessor.from_pretrained(source, **hub)
    except (OSError, ValueError, ImportError, KeyError):
        return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    line = text[0].strip().rstrip(":") if text else type(error).__name__
    return line if line.endswith((".", "!", "?")) else line + "."
