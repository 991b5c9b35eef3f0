"""Every exception that zif raises on purpose.

    ZifError
     ├── InvalidRequest(ValueError)      what a client sent cannot be served; says why       -> HTTP 400
     │    └── ContextLengthExceeded      prompt or max_tokens over the model's context        -> HTTP 400
     ├── InvalidSettings(ValueError)     a flag, environment variable or file entry is wrong
     ├── UnsupportedModel(ValueError)    unknown architecture, or a feature of one; lists what is known
     ├── WeightsError(ValueError)        checkpoint is missing, incomplete or of the wrong shape
     ├── NoUsableDevice                  `--device` could not be satisfied; carries the decision trace
     ├── PluginError                     a plugin broke the contract; names its distribution
     │    └── IncompatiblePlugin         API version ranges do not meet; names both sides
     ├── KernelNotFound                  no kernel serves an op's request; lists every refusal
     ├── OutOfMemory                     device memory; says what would fit
     ├── NumericalFault                  the model's logits are no numbers to draw from        -> HTTP 500
     ├── EngineDead                      the engine process ended; carries the reason         -> HTTP 503
     └── Overloaded                      an admission limit was reached                       -> HTTP 429

Messages are for users: one readable line that names what was wrong and what to do about it.
"""

from __future__ import annotations


class ZifError(Exception):
    """Base of every deliberate error of zif."""


class InvalidRequest(ZifError, ValueError):
    """A request cannot be served as it stands.

    ``param`` names the offending field, as OpenAI's error object has it.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and ``max_tokens``, do not fit the model's context."""


class InvalidSettings(ZifError, ValueError):
    """A setting is wrong, alone or together with another."""


class UnsupportedModel(ZifError, ValueError):
    """No model definition serves this checkpoint."""


class WeightsError(ZifError, ValueError):
    """A checkpoint is missing, incomplete or of the wrong shape."""


class NoUsableDevice(ZifError):
    """``--device`` could not be satisfied."""


class PluginError(ZifError):
    """A plugin broke the contract; ``distribution`` is the package to blame."""

    def __init__(self, message: str, distribution: str) -> None:
        super().__init__(message)
        self.distribution = distribution


class IncompatiblePlugin(PluginError):
    """A plugin and this core speak no common API version."""


class KernelNotFound(ZifError):
    """No provider has a kernel for an op's request."""


class OutOfMemory(ZifError):
    """Device memory does not suffice."""


class NumericalFault(ZifError):
    """The model's logits had a NaN or +inf, or nothing above -inf: what would be drawn from them is no answer."""


class EngineDead(ZifError):
    """The engine process has ended; no request can be served."""


class Overloaded(ZifError):
    """An admission limit was reached; trying again later can succeed."""
