"""``jax.jit`` over few buckets, each compilation told in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import jax

from zif.contract import NO_FACTS, ArraySpec, Program, ProgramFacts, Tree
from zif.reference.jax import JaxExecutable, JaxExecutables, JaxRuntime
from zif.reference.jax.executables import JaxSlot
from zif_tpu import buckets
from zif_tpu.chips import BY_KIND
from zif_tpu.memory import room_for

logger = logging.getLogger(__name__)


class TpuExecutable(JaxExecutable):
    """A compiled program; that there is no room to run it is told as OutOfMemory."""

    def run(self, slot: JaxSlot, resident: Mapping[str, Tree]) -> tuple[dict[str, Any], dict[str, Tree]]:
        with room_for(self.name):
            return super().run(slot, resident)


class TpuExecutables(JaxExecutables):
    """Programs are compiled at their first use; the log warns of a model's that requests wait for."""

    kind: type[JaxExecutable] = TpuExecutable

    def __init__(self, runtime: JaxRuntime) -> None:
        chip = BY_KIND.get(runtime.device.device_kind)
        super().__init__(runtime, None if chip is None else chip.compiler_options)
        self._models = 0
        self._serving = False

    def bucket(self, axis: str, size: int, limit: int) -> int:
        return buckets.bucket(axis, size, limit)

    def compile(
        self,
        name: str,
        fn: Program,
        inputs: Mapping[str, ArraySpec],
        outputs: Mapping[str, ArraySpec],
        resident: Mapping[str, Tree],
        donate: tuple[str, ...] = (),
        facts: ProgramFacts = NO_FACTS,
    ) -> JaxExecutable:
        """Raises OutOfMemory for a bucket that the device has no room for."""
        start = time.monotonic()
        # Pallas asks for the default device, to learn which chip it compiles for
        with room_for(name), jax.default_device(self._runtime.device):
            try:
                executable = super().compile(name, fn, inputs, outputs, resident, donate, facts)
            except jax.errors.JaxRuntimeError as error:
                if not self._compiler_options or "No such compile option" not in str(error):
                    raise
                logger.warning("steps may copy the weights (docs/backends/tpu.md): %s", str(error).splitlines()[0])
                self._compiler_options = {}
                executable = super().compile(name, fn, inputs, outputs, resident, donate, facts)
        self.compiled(executable, time.monotonic() - start, facts.step is not None)
        return executable

    def compiled(self, executable: JaxExecutable, seconds: float, of_model: bool) -> None:
        """Tell of a program that took ``seconds`` to compile."""
        name = executable.name
        if not of_model:
            self._serving = True  # a request is being admitted, or its first tokens are drawn
            logger.info("compiled %s in %.1f s", name, seconds)
            return
        self._models += 1
        logger.log(
            logging.WARNING if self._serving else logging.INFO,
            "compiled %s in %.1f s%s (executable %d of the model, of at most %d)",
            name, seconds, " while requests wait" if self._serving else "", self._models, buckets.AT_MOST,
        )  # fmt: skip
