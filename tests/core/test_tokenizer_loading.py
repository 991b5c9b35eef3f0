"""A checkpoint's tokenizer files, in the variants that exist."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import tiny_tokenizer
from zif import bundled
from zif.contract.errors import InvalidSettings, WeightsError
from zif.opening import open_frontend, sampling_defaults
from zif.process.client import ThreadClient
from zif.settings import Settings
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


def test_tokens_that_only_the_files_beside_tokenizer_json_define(checkpoint: Path) -> None:
    size = tiny_tokenizer.byte_level().get_vocab_size()
    shown = {"content": "<think>", "special": False, "normalized": False}
    hidden = {"content": "<|tool|>", "special": True, "normalized": False}
    config = {"eos_token": "<|tool|>", "add_bos_token": False}
    write(checkpoint, "tokenizer_config.json", {**config, "added_tokens_decoder": {size: shown, size + 1: hidden}})
    compare_with_transformers(checkpoint, "<think>hello<|tool|><|end|>there", "<thin")
    tokenizer = load_tokenizer(checkpoint)
    ids = tokenizer.encode("<think>a<|tool|>")
    assert (ids[0], ids[-1]) == (size, size + 1)
    assert tokenizer.decode(ids) == "<think>a"
    assert size + 1 in tokenizer.eos_token_ids

    write(checkpoint, "tokenizer_config.json", config)
    write(checkpoint, "added_tokens.json", {"<think>": size, "<|tool|>": size + 1})
    compare_with_transformers(checkpoint, "<think>hello<|tool|><|end|>there", "<thin")
    assert load_tokenizer(checkpoint).decode(ids) == "<think>a"

    write(checkpoint, "added_tokens.json", {"<think>": size + 5})
    with pytest.raises(WeightsError, match=f"'<think>' the id {size + 5}, but .* it would be {size}"):
        load_tokenizer(checkpoint)
    write(checkpoint, "tokenizer_config.json", {"added_tokens_decoder": {"x": "<think>"}})
    with pytest.raises(WeightsError, match="cannot be read"):
        load_tokenizer(checkpoint)


@pytest.mark.parametrize("flag", [None, False, True])
def test_what_tokenizer_json_puts_around_a_text_stays_as_transformers_has_it(
    checkpoint: Path, flag: bool | None
) -> None:
    backend = tiny_tokenizer.byte_level()
    ends = [("<|user|>", 1), ("<|end|>", 0)]
    backend.post_processor = TemplateProcessing(single="<|user|> $A <|end|>", special_tokens=ends)
    tiny_tokenizer.write_checkpoint(checkpoint, backend)
    config = {"bos_token": "<|user|>", "eos_token": "<|end|>"}
    flags = {} if flag is None else {"add_bos_token": flag, "add_eos_token": flag}
    write(checkpoint, "tokenizer_config.json", {**config, **flags})
    compare_with_transformers(checkpoint, "hello there", "", "a<|end|>b")


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_text_begins_and_ends_as_the_configuration_says(checkpoint: Path, bos: bool, eos: bool) -> None:
    config = {"bos_token": "<|user|>", "eos_token": "<|end|>", "add_bos_token": bos, "add_eos_token": eos}
    write(checkpoint, "tokenizer_config.json", config)
    tokenizer = load_tokenizer(checkpoint)
    plain = tiny_tokenizer.byte_level().encode("hello there").ids
    whole = [1] * bos + plain + [0] * eos
    assert tokenizer.encode("hello there") == whole
    assert tokenizer.encode("hello there", add_special_tokens=False) == plain
    written = tokenizer.decode(whole, skip_special_tokens=False)
    assert tokenizer.encode(written) == whole, "nothing stands there twice"


def compare_with_transformers(directory: Path, *texts: str) -> None:
    """Compare ids and texts with those of AutoTokenizer, for each of ``texts``."""
    theirs, ours = AutoTokenizer.from_pretrained(str(directory)), load_tokenizer(directory)
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs(text)["input_ids"]
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False)["input_ids"]
        for skip in (True, False):
            plain = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == plain


def test_recommended_sampling_is_read_and_checked_when_the_model_is_loaded(checkpoint: Path) -> None:
    given = {"temperature": 0.6, "top_k": 20, "top_p": None, "max_new_tokens": 7, "do_sample": True}
    write(checkpoint, "generation_config.json", given)
    defaults = {"temperature": 0.6, "top_k": 20, "max_tokens": 7}
    assert sampling_defaults(load_tokenizer(checkpoint), "m") == defaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", "0.7"),
        ("temperature", True),
        ("top_p", 0),
        ("top_k", 2.5),
        ("top_k", "50"),
        ("max_new_tokens", -1),
        ("max_new_tokens", "many"),
        ("repetition_penalty", 0.0),
        ("min_p", [0.1]),
    ],
)
def test_a_recommendation_that_no_request_could_be_served_with_is_refused(
    checkpoint: Path, name: str, value: Any
) -> None:
    write(checkpoint, "generation_config.json", {name: value})
    ours = name.replace("max_new_tokens", "max_tokens")
    with pytest.raises(WeightsError, match=rf"m: generation_config\.json: {ours} must .*--sampling-defaults openai"):
        sampling_defaults(load_tokenizer(checkpoint), "m")


def test_recommendations_are_left_out_where_the_settings_say_so(tmp_path: Path) -> None:
    for file in Path(bundled.path()).glob("*.json"):
        shutil.copy(file, tmp_path)
    write(tmp_path, "generation_config.json", {"temperature": 0.5})
    for said, defaults in (("model", {"temperature": 0.5}), ("openai", {})):
        settings = Settings(model=str(tmp_path), device="null", sampling_defaults=said)
        assert open_frontend(settings, ThreadClient(pytest.fail)).model.sampling_defaults == defaults
