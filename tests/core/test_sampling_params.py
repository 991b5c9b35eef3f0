"""Sampling settings as users pass them: normalised, or refused with the field's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zif.contract.errors import InvalidRequest
from zif.sampling.params import SamplingParams


def test_one_stop_string_is_one_stop_string() -> None:
    assert SamplingParams(stop="end").stop == ("end",)  # type: ignore[arg-type]
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")  # type: ignore[arg-type]
    assert SamplingParams(stop_token_ids=[np.int64(3)]).stop_token_ids == (3,)  # type: ignore[arg-type, list-item]


def test_whole_numbers_of_any_kind_are_taken() -> None:
    params = SamplingParams(max_tokens=np.int32(5), seed=np.int64(7), top_k=-1)  # type: ignore[arg-type]
    assert (params.max_tokens, params.seed, params.top_k) == (5, 7, 0)
    assert type(params.max_tokens) is int


def test_a_temperature_too_small_to_divide_by_is_greedy() -> None:
    assert SamplingParams(temperature=1e-30).greedy
    assert not SamplingParams(temperature=0.01).greedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 1.5), ("top_k", 2.0), ("n", True), ("max_tokens", "5"), ("logprobs", 0.5), ("min_tokens", -1),
        ("stop", [""]), ("stop", [1]), ("stop", ["x" * 1025]),
        ("stop_token_ids", [1.5]), ("stop_token_ids", list(range(60))),
        ("logit_bias", {1.5: 1}), ("logit_bias", {1: 101}), ("temperature", float("nan")), ("temperature", -1),
        ("top_p", 0), ("top_p", 1.1), ("min_p", -0.1), ("repetition_penalty", 0), ("presence_penalty", 3),
        ("logprobs", 21), ("n", 0), ("seed", 2**64),
    ],
)  # fmt: skip
def test_wrong_values_are_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field) as error:
        SamplingParams(**{field: value})
    assert error.value.param == field
