"""A checkpoint's tokenizer files, in the variants that exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny_tokenizer
from zif.contract.errors import InvalidSettings, WeightsError
from zif.tokenizer import load_tokenizer


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_tokenizer.write_checkpoint(tmp_path)


def write(directory: Path, name: str, content: Any) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))


def template(directory: Path, **options: Any) -> str:
    loaded = load_tokenizer(directory, **options).chat_template
    assert loaded is not None
    return loaded.render([{"role": "user", "content": "x"}])


def test_what_is_read(checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.decode(tokenizer.encode("hello there")) == "hello there"
    assert tokenizer.eos_token_ids == (0,)
    assert tokenizer.generation_defaults == {"top_p": 0.9}
    assert tokenizer.special_ids == frozenset({0, 1, 2, 3})
    assert template(checkpoint) == "<|user|>x<|end|><|assistant|>"


def test_ends_of_sequence_come_from_generation_config_then_config_and_always_from_the_tokenizer(
    checkpoint: Path,
) -> None:
    write(checkpoint, "generation_config.json", {"eos_token_id": [3, 2]})
    write(checkpoint, "config.json", {"eos_token_id": 1})
    assert load_tokenizer(checkpoint).eos_token_ids == (3, 2, 0)
    write(checkpoint, "generation_config.json", {})
    assert load_tokenizer(checkpoint).eos_token_ids == (1, 0)


def test_chat_template_files_override_one_another(checkpoint: Path) -> None:
    write(checkpoint, "tokenizer_config.json", {"chat_template": [{"name": "default", "template": "listed"}]})
    assert template(checkpoint) == "listed"
    write(checkpoint, "tokenizer_config.json", {})
    write(checkpoint, "chat_template.json", {"chat_template": "legacy"})
    assert template(checkpoint) == "legacy"
    write(checkpoint, "chat_template.jinja", "{{ 'jinja' }}")
    assert template(checkpoint) == "jinja"
    write(checkpoint, "mine.jinja", "mine")
    assert template(checkpoint, chat_template=checkpoint / "mine.jinja") == "mine"
    assert template(checkpoint, chat_template="{{ 'inline' }}") == "inline"


def test_a_template_for_tools_is_found(checkpoint: Path) -> None:
    write(checkpoint, "additional_chat_templates/tool_use.jinja", "tools")
    loaded = load_tokenizer(checkpoint).chat_template
    assert loaded is not None
    assert loaded.render([{"role": "user", "content": "x"}], tools=[{}]) == "tools"


def test_no_chat_template(checkpoint: Path) -> None:
    write(checkpoint, "tokenizer_config.json", {})
    assert load_tokenizer(checkpoint).chat_template is None


def test_special_tokens_may_be_objects(checkpoint: Path) -> None:
    write(checkpoint, "tokenizer_config.json", {"bos_token": {"content": "<|user|>"}, "add_bos_token": True})
    write(checkpoint, "chat_template.jinja", "{{ bos_token }}")
    assert template(checkpoint) == "<|user|>"
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer.encode("")[:1] == [1]
    assert tokenizer.encode("<|user|>") == [1], "no second BOS"
    assert tokenizer.encode("", add_special_tokens=False) == []


def test_truncation_saved_by_a_training_run_is_dropped(checkpoint: Path) -> None:
    backend = tiny_tokenizer.byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    tiny_tokenizer.write_checkpoint(checkpoint, backend)
    assert load_tokenizer(checkpoint).encode("one two three") == tiny_tokenizer.byte_level().encode("one two three").ids


def test_what_cannot_be_loaded_says_why(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="neither a directory nor a hub id"):
        load_tokenizer("/no/such/place")
    with pytest.raises(InvalidSettings, match="neither a file nor a Jinja template"):
        load_tokenizer(checkpoint, chat_template="nowhere.jinja")
    with pytest.raises(InvalidSettings, match="not valid Jinja"):
        load_tokenizer(checkpoint, chat_template="{% for %}")
    write(checkpoint, "generation_config.json", "{")
    with pytest.raises(WeightsError, match=r"generation_config\.json cannot be read as JSON"):
        load_tokenizer(checkpoint)
    write(checkpoint, "generation_config.json", "[]")
    with pytest.raises(WeightsError, match="holds no JSON object"):
        load_tokenizer(checkpoint)
    write(checkpoint, "tokenizer.json", "{}")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_tokenizer(checkpoint)


def test_without_tokenizer_json_another_library_converts_or_is_asked_for(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "tokenizer.json").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install transformers"):
        load_tokenizer(checkpoint)
