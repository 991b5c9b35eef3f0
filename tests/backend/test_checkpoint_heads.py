"""A head that a checkpoint stores is used, whatever the flags say; what its dtype does to a model is not tried."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backend.checkpoints import Saved, save
from zif.contract.backend import Capabilities
from zif.contract.errors import InvalidSettings
from zif.engine.part import load_part
from zif.engine.plan import plan_engine
from zif.reference.torch import TorchBackend, TorchRuntime
from zif.settings import Settings

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def with_head(saved: Saved, head: np.ndarray[Any, Any] | None) -> None:
    path = saved.path / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if name != HEAD}
    save_file(tensors if head is None else {**tensors, HEAD: head}, path)


def head_of(saved: Saved) -> tuple[np.ndarray[Any, Any], bool]:
    """The head that is served, and whether it shares the embedding's storage."""
    backend = TorchBackend(TorchRuntime())
    settings = Settings(model=str(saved.path), device="cpu", dtype="float32")
    part = load_part(settings, backend, None, load_format="auto", progress=False)
    head, table = part.weights["lm_head"].arrays["w"], part.weights["embed"].arrays["w"]
    return head.numpy(), head.data_ptr() == table.data_ptr()


def flags(saved: Saved, outer: bool | None, inner: bool | None) -> None:
    def change(config: dict[str, Any]) -> None:
        config["text_config"] = {key: value for key, value in config.items() if key != "architectures"}
        for part, flag in ((config, outer), (config["text_config"], inner)):
            part.pop("tie_word_embeddings", None)
            if flag is not None:
                part["tie_word_embeddings"] = flag

    saved.edit_config(change)


@pytest.mark.parametrize("name", ["llama-tied", "gemma2"])
def test_a_head_beside_a_flag_that_ties_is_used(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = save(name, tmp_path)
    table = load_file(tmp_path / "model.safetensors")[TABLE]
    own = table.copy()
    own[-1, -1] += 1  # the last element of it alone
    with_head(saved, own)
    with caplog.at_level(logging.WARNING):
        served, shared = head_of(saved)
    np.testing.assert_array_equal(served, own)
    assert not shared
    assert "lm_head.weight is stored and is used, though config.json says tie_word_embeddings" in caplog.text


def test_a_copy_of_the_table_is_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved = save("llama-tied", tmp_path)
    with_head(saved, load_file(tmp_path / "model.safetensors")[TABLE])
    assert head_of(saved)[1]
    assert not caplog.records


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True)])
def test_flags_that_contradict_each_other_leave_it_to_the_tensors(outer: bool, inner: bool, tmp_path: Path) -> None:
    saved = save("gemma3", tmp_path)
    saved.edit_config(lambda config: config.update(architectures=["Gemma3ForConditionalGeneration"]))
    flags(saved, outer, inner)
    table = load_file(tmp_path / "model.safetensors")[TABLE]
    with_head(saved, table + 1)
    np.testing.assert_array_equal(head_of(saved)[0], table + 1)
    with_head(saved, None)
    assert head_of(saved)[1]


def test_gemma_is_not_computed_in_float16(tmp_path: Path) -> None:
    saved = save("gemma2", tmp_path)
    backend = TorchBackend(TorchRuntime())
    served = Capabilities(dtypes=("float16", "bfloat16", "float32"), asynchronous=False)
    backend.capabilities = served
    saved.edit_config(lambda config: config.update(dtype="float16"))
    for given, dtype in ({}, "bfloat16"), ({"dtype": "float32"}, "float32"):
        settings = Settings(model=str(saved.path), **given)
        part = load_part(settings, backend, None, load_format="dummy", progress=False)
        assert part.plan.dtype == dtype
    with pytest.raises(InvalidSettings, match=r"--dtype float16: Gemma's hidden states exceed 65504.*take bfloat16 or"):
        load_part(Settings(model=str(saved.path), dtype="float16"), backend, None, load_format="dummy")
    backend.capabilities = Capabilities(dtypes=("float16",), asynchronous=False)
    with pytest.raises(InvalidSettings, match="computes in float16 alone: Gemma's"):
        plan_engine(Settings(), 128, "float16", backend, {"float16": "Gemma's hidden states"})
