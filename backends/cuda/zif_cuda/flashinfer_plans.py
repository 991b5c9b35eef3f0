"""Plans of flashinfer's attention: which thread block works on which piece of which sequence.

Sequences at the front that have one token each, where they are many, are another kernel's: a plan leaves them out.

A plan is made on the host and copied to the device, out of a pinned buffer of the wrapper's own. The device may be a
step behind, so a wrapper is planned again only after the copies of its last plan are done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from zif.contract import AttentionSpec, HostStep, OpRequest, StepShape
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.device import CudaDevice

Tensor = torch.Tensor
Ints = np.ndarray[Any, np.dtype[np.int32]]


class Plan:
    """A wrapper, and the step that it is planned for: the queries of ``rows``.

    ``least``: how many sequences at the front are enough to be left out; None for no number of them. ``fronted``:
    some are, or may be in another step that the same graph is replayed for.
    """

    host: HostStep | None = None
    rows = slice(0)
    fronted = False

    def __init__(self, device: CudaDevice, request: OpRequest, wrapper: Any, least: int | None) -> None:
        self.wrapper = wrapper
        self._least = least
        self._device = device
        self._copied = device.event()
        self._spec: AttentionSpec = request["key"]
        self._page_size: int = request["page_size"]
        self._dtype = torch_dtype(request.dtype)

    def make(self, step: HostStep) -> None:
        """Plan ``step``; waits until the last plan's copies are done."""
        raise NotImplementedError

    def fill(self, pages: Tensor) -> None:
        """Tell the ids of the step's pages, from the tables on the device ``pages`` [B, P]."""
        raise NotImplementedError

    def _left_out(self, step: HostStep) -> int:
        """How many sequences at the front of ``step`` are not planned."""
        if self._least is None:
            return 0
        others = np.flatnonzero(step.query_starts[1:] != np.arange(1, len(step.query_starts)))
        count = int(others[0]) if len(others) else len(step.kv_lens)
        return count if count >= self._least else 0

    def _plan(
        self, step: HostStep, starts: Ints, first_pages: Ints, pages: Tensor, last_pages: Ints, lens: Ints
    ) -> None:
        """The wrapper's own, of sequences that begin at ``starts`` [n+1], and in ``pages`` at ``first_pages`` [n+1]."""
        if self.host is not None:
            self._copied.synchronize()
        spec = self._spec
        self.wrapper.plan(
            torch.from_numpy(starts),
            torch.from_numpy(first_pages),
            pages,
            torch.from_numpy(last_pages),
            spec.q_heads,
            spec.kv_heads,
            spec.head_dim,
            self._page_size,
            causal=True,
            sm_scale=spec.scale,
            window_left=-1 if spec.window is None else spec.window - 1,
            logits_soft_cap=spec.softcap,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
            seq_lens=torch.from_numpy(lens),
            max_token_per_sequence=int(np.diff(starts).max()),  # it would look for it tensor by tensor
        )
        self._copied.record()
        self.host = step


class RaggedPlan(Plan):
    """Of the real tokens of a step that is launched op by op; page ids of all sequences lie behind one another."""

    _pages: Tensor
    _counts: Ints

    def __init__(
        self, device: CudaDevice, request: OpRequest, workspace: Tensor, backend: str, least: int | None
    ) -> None:
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=backend)
        super().__init__(device, request, wrapper, least)

    def make(self, step: HostStep) -> None:
        out = min(self._left_out(step), len(step.kv_lens) - 1)  # flashinfer is to have something to do
        lens = step.kv_lens[out:].copy()  # a follower's are read-only, which torch warns of
        counts = -(-lens // self._page_size)
        bounds = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=bounds[1:])
        self._counts = counts
        self._pages = torch.empty(int(bounds[-1]), dtype=torch.int32, device=self._device.torch)
        last = lens - (counts - 1) * self._page_size
        self.rows, self.fronted = slice(out, int(step.query_starts[-1])), out > 0
        self._plan(step, step.query_starts[out:] - np.int32(out), bounds, self._pages, last, lens)

    def fill(self, pages: Tensor) -> None:
        counts = self._counts.astype(np.int64)
        firsts = np.cumsum(counts) - counts
        rows = self.rows.start + np.arange(len(counts))  # as many sequences are left out as tokens
        where = np.repeat(rows * pages.shape[1] - firsts, counts) + np.arange(int(counts.sum()))
        torch.take(pages, self._device.upload(where), out=self._pages)


class PaddedPlan(Plan):
    """Of steps of one shape that are captured: everything is at an address of its own, and as large as it gets.

    That is enough for fa3, which takes its work from the plan alone. It goes by where the pages of a sequence begin and
    by its length, so page tables are read as they are. Two more sequences, without keys, have the tokens that are left
    out and the padding tokens: their outputs are zeros. Thus every plan has all the shape's queries, which flashinfer
    lays its buffers out by.

    ``plans`` is the device's memory for a plan, ``pages`` [seqs * pages] int32 that for page tables: shapes share them,
    since steps run one after the other.
    """

    def __init__(
        self, device: CudaDevice, request: OpRequest, workspace: Tensor, plans: Tensor, pages: Tensor, shape: StepShape,
        least: int | None,
    ) -> None:  # fmt: skip
        from flashinfer import BatchPrefillWithPagedKVCacheWrapper

        def zeros(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int32, device=device.torch)

        count = shape.seqs + 2
        width = -(-shape.pages // request["page_factor"])
        assert len(pages) == shape.seqs * width
        self._pages = pages
        wrapper = BatchPrefillWithPagedKVCacheWrapper(
            workspace,
            "NHD",
            use_cuda_graph=True,
            qo_indptr_buf=zeros(count + 1),
            paged_kv_indptr_buf=zeros(count + 1),
            paged_kv_indices_buf=pages,
            paged_kv_last_page_len_buf=zeros(count),
            backend="fa3",
        )
        wrapper.reset_workspace_buffer(workspace, plans)
        super().__init__(device, request, wrapper, least)
        self.rows = slice(shape.tokens)
        self.fronted = least is not None and shape.seqs >= least
        self._first_pages = np.maximum(np.arange(-1, count, dtype=np.int32), 0) * np.int32(width)
        self._last_pages = np.zeros(count, np.int32)  # fa3 does not ask

    def make(self, step: HostStep) -> None:
        real, count, out = len(step.kv_lens), len(self._last_pages), self._left_out(step)
        starts = np.full(count + 1, step.query_starts[-1], np.int32)
        starts[0], starts[1 : real + 2] = 0, np.maximum(step.query_starts, out)
        starts[-1] = self.rows.stop
        lens = np.zeros(count, np.int32)
        lens[1 + out : 1 + real] = step.kv_lens[out:]
        self._plan(step, starts, self._first_pages, self._pages[:0], self._last_pages, lens)

    def fill(self, pages: Tensor) -> None:
        self._pages.copy_(pages.reshape(-1))
