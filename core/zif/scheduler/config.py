"""What the scheduler is told once."""

from __future__ import annotations

from dataclasses import dataclass

from zif.contract.errors import InvalidSettings
from zif.scheduler.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """What the scheduler is told once.

    ``chunked_prefill_size``  prompt tokens a step, of all requests; what decodes comes on top.
    ``overlap``               ``schedule`` is called for step N+1 before ``commit`` of step N.
    ``radix_cache``           keep KV for later requests with the same prefix.
    ``max_queued``            waiting requests beyond which ``add`` raises Overloaded; None: no limit.
    ``drafts``                tokens that a decode brings at most to be verified, beside its last one.
    ``conservativeness``      above 1: fewer retractions, fewer requests at a time.
    """

    context_length: int
    max_running_requests: int
    chunked_prefill_size: int = 8192
    overlap: bool = True
    radix_cache: bool = True
    policy: Policy = "lpm"
    max_queued: int | None = None
    conservativeness: float = 1.0
    drafts: int = 0

    def __post_init__(self) -> None:
        for name in ("context_length", "max_running_requests", "chunked_prefill_size"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} must be at least 1, not {getattr(self, name)}")
