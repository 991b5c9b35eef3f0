"""Run by ``test_own_kernels.py`` in a process of its own: Triton reads TRITON_INTERPRET when kernels are defined."""

from __future__ import annotations

import torch

from zif_cuda.launchers import vector_linear, widened

for rows, inner, with_bias in ((7, 512, False), (16, 1024, True), (1, 2560, True), (9, 4096, False)):
    generator = torch.Generator().manual_seed(rows)
    x, w = torch.randn(1, inner, generator=generator), torch.randn(rows, inner, generator=generator)
    bias = torch.randn(rows, generator=generator) if with_bias else None
    expected = torch.nn.functional.linear(x.double(), w.double(), None if bias is None else bias.double())
    torch.testing.assert_close(vector_linear(x, w, bias).double(), expected, rtol=1e-5, atol=1e-4)
x = torch.randn(3, 1025).half()
assert torch.equal(widened(x), x.float())
print("agrees")
