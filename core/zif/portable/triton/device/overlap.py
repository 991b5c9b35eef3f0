"""Starting a kernel while the one before it still runs, where a device can (programmatic dependent launch).

A kernel that was launched so (``OVERLAP``) may run while earlier ones are still at work, up to its
:func:`enter`: there it waits until all that they wrote can be read. What comes before that touches
nothing but constants, such as weights, and what is older than the kernel before, such as a step's
lengths. Every program of every such kernel enters: a kernel that did not wait would let the one behind
it start before its own predecessor has ended.

Triton files the two instructions under the name of the vendor that has them; elsewhere OVERLAP is off, and
nothing of it is compiled.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def enter(OVERLAP: tl.constexpr):
    """Wait for the kernels before this one, then let the next be started: by then all of those have ended."""
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def enter_ahead(OVERLAP: tl.constexpr):
    """:func:`enter` in the other order, so that the next kernel starts while those before this one still work.

    For norms, which are short, and for a single token's products, whose weights are then under way two kernels before
    they are needed. It takes care in what is launched behind them: what is read before it enters must be older than
    the last kernel that waited first. Weights are; a step's lengths and page tables are, behind the kernel that
    computes the angles or looks up the embeddings.
    """
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def fetch_early(pointers, OVERLAP: tl.constexpr):
    """Ask for the cache lines of constants at ``pointers``, two axes of them, ahead of :func:`enter`; wait for none."""
    if OVERLAP:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers.to(tl.int64)], tl.int32, is_pure=False, pack=1
        )
