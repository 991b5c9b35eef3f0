"""Model definitions: one family a file, against zif's ops, for every backend.

``ARCHITECTURES`` maps the names in a checkpoint's ``config.json`` to the modules that define them,
imported when asked for. Plugins add to it with the hook ``zif_models``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zif.contract import UnsupportedModel

if TYPE_CHECKING:
    from zif.contract import ModelFamily

ARCHITECTURES: Mapping[str, str] = {
    "Gemma2ForCausalLM": "zif_models.gemma2",
    "Gemma3ForCausalLM": "zif_models.gemma3",
    "Gemma3ForConditionalGeneration": "zif_models.gemma3",
    "LlamaForCausalLM": "zif_models.llama",
    "MistralForCausalLM": "zif_models.mistral",
    "Phi3ForCausalLM": "zif_models.phi3",
    "Qwen2ForCausalLM": "zif_models.qwen2",
    "Qwen3ForCausalLM": "zif_models.qwen3",
}


def resolve(config: Mapping[str, Any], extra: Mapping[str, str] | None = None) -> ModelFamily:
    """The family that defines the architecture of a ``config.json``.

    ``extra`` maps further architectures (or overridden ones) to modules. Raises
    :class:`UnsupportedModel`, which lists what is known.
    """
    known = {**ARCHITECTURES, **(extra or {})}
    asked = config.get("architectures") or []
    if not isinstance(asked, list | tuple) or not all(isinstance(name, str) for name in asked):
        raise UnsupportedModel("config.json: architectures is not a list of names")
    name = next((architecture for architecture in asked if architecture in known), None)
    if name is None:
        said = f"unknown architecture {', '.join(map(repr, asked))}" if asked else "config.json names no architecture"
        raise UnsupportedModel(f"{said}; zif has {', '.join(sorted(known))}, and plugins can add others")
    try:
        family = importlib.import_module(known[name])
    except ImportError as error:
        raise UnsupportedModel(f"{name}: its module {known[name]} cannot be imported: {error}") from error
    if not callable(getattr(family, "build", None)):
        raise UnsupportedModel(f"{name}: its module {known[name]} has no function build(config)")
    return family
