"""The request table's kernel, against the reference, and what it may write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.interpreted.calling import call, cases, check, faults, tensors
from zif.contract.ops import op_specs
from zif.contract.opspec import OpRequest


@pytest.mark.parametrize("op", ["decode_inputs", "mixed_inputs", "sample_rows"])
def test_every_case_of_the_op(op: str) -> None:
    for case in cases(op, "float32"):
        check(op, case, "float32")


def test_the_table_is_updated_where_it_is() -> None:
    """A captured graph relies on the addresses."""
    case = next(iter(cases("decode_inputs", "float32")))
    arguments = tensors(case.arguments, "float32")
    *_, kv_len, pages = call("decode_inputs", case.request, **arguments)
    assert kv_len.data_ptr() == arguments["kv_len"].data_ptr()
    assert {group: table.data_ptr() for group, table in pages.items()} == {
        group: table.data_ptr() for group, table in arguments["pages"].items()
    }
    case = next(iter(cases("sample_rows", "float32")))
    arguments = tensors(case.arguments, "float32")
    _, last_token = call("sample_rows", case.request, **arguments)
    assert last_token.data_ptr() == arguments["last_token"].data_ptr()


def test_tokens_and_pages_of_many_blocks() -> None:
    """More tokens of a sequence, more padding and wider tables than one turn of the kernel takes."""
    rng = np.random.default_rng(2)
    counts = [1, 1300, 0]
    arguments = {
        "rows": np.array([2, 3, 0], np.int32),
        "tokens": np.concatenate([[-1], rng.integers(0, 99, 1300), np.zeros(700)]).astype(np.int32),
        "seqs": np.repeat([0, 1, 2], [1, 1300, 700]).astype(np.int32),
        "query_starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        "num_tokens": np.array([1301], np.int32),
        "last_token": np.arange(4, dtype=np.int32) + 50,
        "kv_len": np.array([0, 5, 6, 7], np.int32),
        "pages": {"g": rng.integers(1, 9999, (4, 1600)).astype(np.int32)},
        "width": 1200,
        "factors": {"g": 1},
    }
    expected = op_specs()["mixed_inputs"].reference(**arguments)
    typed = tensors(arguments, "float32")
    got = call("mixed_inputs", OpRequest.of("mixed_inputs", "float32"), **typed)
    assert not faults("mixed_inputs", got, expected, "float32")
    assert got[4].data_ptr() == typed["kv_len"].data_ptr()


@pytest.mark.parametrize("width", [1, 1500])
def test_wide_page_tables_take_several_programs(width: int) -> None:
    """More than one block of columns, assignments in the last one, and rows of a table that is wider still."""
    rng = np.random.default_rng(1)
    pages = {"g": rng.integers(1, 9999, (4, 1600)).astype(np.int32)}
    pages["g"][0] = 0
    arguments = {
        "rows": np.array([3, 1, 0], np.int32),
        "tokens": np.array([-1, -1, 0], np.int32),
        "last_token": np.arange(4, dtype=np.int32),
        "kv_len": np.array([0, 5, 6, 7], np.int32),
        "pages": pages,
        "page_rows": np.array([1, 1, 2], np.int32),
        "page_indices": np.array([1499, 1, 1024], np.int32),
        "page_ids": {"g": np.array([70001, 70002, 70003], np.int32)},
        "width": width,
        "factors": {"g": 1},
    }
    expected = op_specs()["decode_inputs"].reference(**arguments)
    got = call("decode_inputs", OpRequest.of("decode_inputs", "float32"), **tensors(arguments, "float32"))
    assert torch.equal(got[4]["g"], torch.from_numpy(expected[4]["g"]))
    assert torch.equal(got[6]["g"], torch.from_numpy(expected[6]["g"]))
