"""One step of the engine, as the device sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zif.contract.arrays import tree


@dataclass(frozen=True, slots=True)
class StepShape:
    """The padded sizes that a step's program is compiled for.

    ``tokens`` T, ``seqs`` B, ``pages`` P (the longest sequence in the model's smallest pages: the width of the page
    tables, or ceil(P / factor) where the pages of a group are larger by a factor), ``logits`` R (positions whose
    logits are asked for). ``decode``: every sequence has one token, and T = B = R. ``exact``: the host knows all
    lengths; it does not while drafts are in flight, whose acceptance is known on the device alone.
    """

    tokens: int
    seqs: int
    pages: int
    logits: int
    decode: bool
    exact: bool = True


@dataclass(frozen=True, slots=True)
class HostStep:
    """What the host knows of a step before it is launched; kernels that plan are told it.

    ``query_starts`` [n+1] int32 and ``kv_lens`` [n] int32 as in :class:`Step`, of the n real sequences.
    Lengths are upper bounds: the truth is :class:`Step`'s, on the device. Where ``shape.exact`` is False the two
    differ, and a kernel that plans by exact lengths leaves the step to one that does not.
    """

    shape: StepShape
    query_starts: np.ndarray[Any, np.dtype[np.int32]]
    kv_lens: np.ndarray[Any, np.dtype[np.int32]]


@tree(static=("shape",))
@dataclass(frozen=True)
class Step:
    """A batch of tokens of several sequences, ragged, padded to ``shape``.

    ================  ============  =======================================================
    ``tokens``        [T] int32     token ids
    ``positions``     [T] int32     position of each token in its sequence
    ``seqs``          [T] int32     sequence (0..B-1) of each token
    ``query_starts``  [B+1] int32   first token of each sequence; a padding sequence is empty
    ``kv_lens``       [B] int32     cached length of each sequence, this step's tokens included
    ``pages``         {g: [B, P]}   page ids of each sequence, a cache group each; P of its own pages
    ``num_tokens``    [1] int32     tokens that are real; the rest are padding at the end
    ``logits_at``     [R] int32     tokens whose hidden states go to the head
    ``inputs``        {name: ...}   further inputs that the model declares
    ================  ============  =======================================================

    Sequences that decode, of one token each, come before those that bring a prompt, and padding last.
    Padding tokens have position 0 and sequence B-1; what they compute is never read, and their
    keys and values go to page 0. In a decode step, where token i is sequence i's, a padding sequence
    has a padding token and a length of 0 instead of being empty. Fields are Arrays of the framework at
    hand (typed Any, so that a kernel sees its own tensors without casts).
    """

    tokens: Any
    positions: Any
    seqs: Any
    query_starts: Any
    kv_lens: Any
    pages: Mapping[str, Any]
    num_tokens: Any
    logits_at: Any
    shape: StepShape
    inputs: Mapping[str, Any] = field(default_factory=dict)
