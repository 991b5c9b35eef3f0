"""Finds and reads a checkpoint's tokenizer files: on disk, or on the Hugging Face hub.

Read: ``tokenizer.json``, ``tokenizer_config.json``, ``special_tokens_map.json``, ``added_tokens.json``,
``chat_template.jinja`` (or ``.json``, or ``additional_chat_templates/*.jinja``), ``generation_config.json``,
``config.json``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zif.contract.errors import InvalidSettings, WeightsError
from zif.files import read_json, read_text
from zif.tokenizer.added import add_tokens, special_tokens
from zif.tokenizer.chat_template import ChatTemplate
from zif.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# What a tokenizer may consist of, weights left out.
_FILES = [
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "tokenizer.model",
    "*.tiktoken",
    "vocab*",
    "merges*",
]
# What of a generation_config.json requests get that leave it open, and what zif calls it.
_DEFAULTS = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")},
    "max_new_tokens": "max_tokens",
}


def load_tokenizer(
    model: str | Path, *, revision: str | None = None, chat_template: str | Path | None = None, literal: bool = False
) -> Tokenizer:
    """Load the tokenizer of a checkpoint: a local directory, or a hub id.

    ``chat_template`` (a file, or the template itself) replaces the checkpoint's own.
    With ``literal``, text that spells a control token stays text.
    Raises :class:`WeightsError` if the files are missing or cannot be read, and
    :class:`InvalidSettings` if the chat template cannot be compiled.
    """
    directory = _directory(str(model), revision)
    config = _json(directory / "tokenizer_config.json")
    special_map = _json(directory / "special_tokens_map.json")
    special = special_tokens(config, special_map)
    backend = _backend(directory)
    add_tokens(backend, config, special_map, _json(directory / "added_tokens.json"))
    bos, eos = (
        backend.token_to_id(special[name]) if config.get(f"add_{name}") is True and name in special else None
        for name in ("bos_token", "eos_token")
    )
    generation = _json(directory / "generation_config.json")
    template = _chat_template(directory, config, chat_template, special)
    if template is not None:
        template.check()
    return Tokenizer(
        backend=backend,
        chat_template=template,
        eos_token_ids=_eos_ids(backend, generation, _json(directory / "config.json"), special),
        bos_token_id=bos,
        end_token_id=eos,
        literal=literal,
        generation_defaults={
            ours: generation[theirs] for theirs, ours in _DEFAULTS.items() if generation.get(theirs) is not None
        },
    )


def _directory(model: str, revision: str | None) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise WeightsError(f"no checkpoint at {model!r}: neither a directory nor a hub id like 'org/name'")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # hub, network and file system errors have no common base
        raise WeightsError(f"cannot get the tokenizer of {model!r} from the hub: {error}") from error


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if there is no such file."""
    return read_json(path) if path.is_file() else {}


def _backend(directory: Path) -> Backend:
    from tokenizers import Tokenizer as Backend

    file = directory / "tokenizer.json"
    if not file.is_file():
        return _converted(directory)
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(f"{file} cannot be read: {error}") from error
    # Some checkpoints save the training set-up's truncation and padding; a served prompt is neither.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _converted(directory: Path) -> Backend:
    """Let transformers convert a tokenizer of another format; it is no requirement of ours, and slow to import."""
    if importlib.util.find_spec("transformers") is None:
        raise WeightsError(
            f"{directory} has no tokenizer.json; `pip install transformers` lets zif convert other tokenizer formats"
        )
    auto = importlib.import_module("transformers").AutoTokenizer
    try:
        backend: Backend = auto.from_pretrained(str(directory), trust_remote_code=False).backend_tokenizer
    except Exception as error:  # whatever the conversion stumbles over
        raise WeightsError(
            f"{directory} has no tokenizer.json, and no other tokenizer that converts: {error}"
        ) from error
    return backend


def _eos_ids(
    backend: Backend, generation: Mapping[str, Any], config: Mapping[str, Any], special: Mapping[str, str]
) -> tuple[int, ...]:
    ids: list[int] = []
    for source in (generation, config):
        value = source.get("eos_token_id")
        listed = value if isinstance(value, list) else [value]
        ids = [i for i in listed if isinstance(i, int) and not isinstance(i, bool)]
        if ids:
            break
    # A chat model's turn may end with a token that only its tokenizer names.
    named = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
    if named is not None:
        ids.append(named)
    return tuple(dict.fromkeys(ids))


def _chat_template(
    directory: Path, config: Mapping[str, Any], override: str | Path | None, special: Mapping[str, str]
) -> ChatTemplate | None:
    templates: dict[str, str] = {}
    if override is not None:
        templates["default"] = _read_override(override)
    else:
        inline = config.get("chat_template")
        if isinstance(inline, str):
            templates["default"] = inline
        elif isinstance(inline, list):
            templates = {entry["name"]: entry["template"] for entry in inline if _is_named_template(entry)}
        legacy = _json(directory / "chat_template.json").get("chat_template")
        if isinstance(legacy, str):
            templates.setdefault("default", legacy)
        for file in sorted(directory.glob("additional_chat_templates/*.jinja")):
            templates[file.stem] = _template(directory, file)
        if (file := directory / "chat_template.jinja").is_file():
            templates["default"] = _template(directory, file)
    source = templates.get("default") or next(iter(templates.values()), None)
    if source is None:
        return None
    return ChatTemplate(source, tool_source=templates.get("tool_use"), special_tokens=special)


def _read_override(template: str | Path) -> str:
    text = str(template)
    if "{" in text or "\n" in text:  # a path has neither; a template has both or is one of constant text
        return text
    path = Path(text).expanduser()
    if not path.is_file():
        raise InvalidSettings(f"chat template {text!r} is neither a file nor a Jinja template")
    return read_text(path)


def _is_named_template(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)


def _template(directory: Path, file: Path) -> str:
    """A template of a checkpoint, which may be a link within the checkpoint or the hub's cache, and no further.

    A link to elsewhere would have the server print files that are not the model's.
    """
    home = directory.resolve()
    allowed = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(file.resolve().is_relative_to(place) for place in allowed):
        raise WeightsError(f"{file} is a link to {file.resolve()}, outside of the checkpoint: copy the template there")
    return read_text(file)
