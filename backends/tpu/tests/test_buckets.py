"""Few executables, whatever the limits."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zif.contract.info import Device
from zif_tpu import buckets
from zif_tpu.backend import PAGE_SIZES, TABLE_ENTRIES, TpuBackend, create
from zif_tpu.kernels import PallasKernels


@given(st.integers(1, 1 << 15), st.integers(1, 1024), st.integers(1, 1 << 15))
def test_a_model_has_at_most_24_executables(tokens: int, rows: int, pages: int) -> None:
    assert len(buckets.model_shapes(tokens + rows, rows, pages)) <= buckets.AT_MOST == 24


@given(st.sampled_from(["tokens", "seqs", "decode_seqs", "pages", "logits", "rows"]), st.integers(1, 5000), st.data())
def test_buckets_hold_what_is_put_in_them(axis: str, limit: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, limit))
    extent = buckets.bucket(axis, size, limit)
    assert size <= extent <= limit
    assert extent in buckets.extents(axis, limit)
    assert buckets.bucket(axis, extent, limit) == extent


def test_unbounded_axes_grow() -> None:
    assert [buckets.bucket("history", size, 1 << 30) for size in (1, 64, 65, 5000)] == [64, 64, 256, 16384]


def test_they_are_shown_at_start_and_page_tables_fit(caplog: pytest.LogCaptureFixture) -> None:
    config = {"context_length": 131072, "page_size": 16, "max_running_requests": 256, "chunked_prefill_size": 2048}
    plain = create({"platform": "cpu"}, Device(name="cpu"))
    with caplog.at_level(logging.INFO):
        assert plain.resolve_config(config) == []
    assert "at most 20 executables of the model" in caplog.text
    (change,) = TpuBackend(plain.runtime, (PallasKernels(),)).resolve_config(config)
    assert (change.field, change.value) == ("max_running_requests", TABLE_ENTRIES // 8192)
    assert PAGE_SIZES[0] == 64
