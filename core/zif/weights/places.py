"""What a place is that is no checkpoint: what people name by mistake, each with what to do instead."""

from __future__ import annotations

from pathlib import Path

from zif.contract.errors import WeightsError

_CONVERT = "zif reads safetensors: take the model's own repository, or convert it"


def no_checkpoint(path: Path) -> WeightsError:
    """What to say of a directory without ``config.json``."""
    return WeightsError(f"{path} has no config.json: {_without_config(path)}")


def no_tensors(path: Path) -> WeightsError:
    """What to say of a directory with ``config.json`` and no ``*.safetensors``."""
    others = sorted(file.name for kind in ("*.bin", "*.gguf", "*.pth", "*.pt", "*.h5") for file in path.glob(kind))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return WeightsError(f"{path} has no *.safetensors file; it has {', '.join(others[:3])}{more}: {_CONVERT}")
    return WeightsError(
        f"{path} has no *.safetensors file: download the weights, or try --load-format dummy for random ones"
    )


def file_not_directory(path: Path) -> WeightsError:
    """What to say of a file."""
    if path.suffix == ".gguf":
        return WeightsError(f"{path} is a GGUF file, llama.cpp's format; {_CONVERT}")
    return WeightsError(f"{path} is a file; name the directory that holds config.json and *.safetensors")


def _without_config(path: Path) -> str:
    def has(pattern: str) -> bool:
        return next(path.glob(pattern), None) is not None

    snapshots = sorted(path.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime)
    if snapshots:
        return f"it is a model's place in the Hugging Face cache; the checkpoint is {snapshots[-1].parent}"
    if has("models--*/snapshots") or has("hub/models--*/snapshots"):
        return "it is the Hugging Face cache; name a model by its id (Qwen/Qwen3-0.6B), and it is found there"
    if has("adapter_config.json"):
        return "it is an adapter (LoRA), without the model that it adapts; merge the two, or name the model"
    if has("params.json"):
        return "it has params.json, the layout of Mistral's or Meta's own code; take the files for transformers"
    if has("model_index.json"):
        return "it is a pipeline of diffusers, and no language model"
    if has("*.gguf"):
        return f"it holds GGUF files, llama.cpp's format; {_CONVERT}"
    inner = sorted(file.parent.name for file in path.glob("*/config.json"))
    if inner:
        return f"name one of the directories in it: {', '.join(inner[:5])}"
    return "it is no checkpoint of a model"
