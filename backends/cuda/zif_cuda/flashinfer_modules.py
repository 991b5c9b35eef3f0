"""flashinfer's compiled modules: whether there are any, and getting one loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import time
from typing import Any

import torch

from zif.contract import OpRequest
from zif.reference.torch.runtime import torch_dtype
from zif_cuda.probe import FLASHINFER as TESTED

logger = logging.getLogger("zif.progress")
INSTALL_CACHE = "pip install flashinfer-jit-cache --index-url https://flashinfer.ai/whl/cu130"


def missing() -> str | None:
    """Why flashinfer cannot be used, or None."""
    if importlib.util.find_spec("flashinfer") is None:
        return f"flashinfer is not installed (pip install flashinfer-python=={TESTED})"
    version = importlib.metadata.version("flashinfer-python")
    if version.split(".")[:2] != TESTED.split(".")[:2]:
        return f"flashinfer {version} is installed, {TESTED} is what this version of zif-cuda calls"
    return None


def build(backend: str, request: OpRequest) -> None:
    """Load flashinfer's module for a request, compiling it where that was not done before."""
    spec = module_spec(backend, request)
    if spec.is_compiled:
        return
    logger.info("compiling flashinfer's attention for heads of %d, once: it is kept on disk", request["head_dim"])
    begin = time.monotonic()
    spec.build_and_load()
    logger.info("compiled in %.0f s", time.monotonic() - begin)


def unbuilt(backend: str, request: OpRequest) -> str | None:
    """Why flashinfer's module for a request can be neither loaded nor compiled, or None."""
    spec = module_spec(backend, request)
    if spec.is_compiled or shutil.which("nvcc") or os.path.exists(f"{os.environ.get('CUDA_HOME', '')}/bin/nvcc"):
        return None
    return f"its kernel is not compiled yet, and there is no nvcc: put nvcc on PATH, or {INSTALL_CACHE}"


def module_spec(backend: str, request: OpRequest) -> Any:
    """How flashinfer makes the module that serves a request."""
    from flashinfer.jit.attention import gen_batch_prefill_module

    dtype, head = torch_dtype(request.dtype), request["head_dim"]
    window, softcap = request["window"] is not None, request["softcap"] is not None
    return gen_batch_prefill_module(backend, dtype, dtype, dtype, torch.int32, head, head, 0, window, softcap, False)
