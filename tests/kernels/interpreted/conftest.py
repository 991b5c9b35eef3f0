"""Triton's kernels on the CPU, by its interpreter.

Whether it interprets is settled when a kernel is defined, so that these tests are a run of their own:
TRITON_INTERPRET=1 pytest tests/kernels/interpreted
"""

from __future__ import annotations

import importlib.util
import os

if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from kernels.interpreted.mending import mend

    mend()
