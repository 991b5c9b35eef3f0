"""Triton's kernels compiled for devices that need not be here; not while they are interpreted."""

from __future__ import annotations

import importlib.util
import os

if os.environ.get("TRITON_INTERPRET") == "1" or importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
