"""Hypothesis profiles: ``HYPOTHESIS_PROFILE=full`` searches long, the default is quick."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, max_examples=40, stateful_step_count=40)
settings.register_profile(
    "full", deadline=None, max_examples=500, stateful_step_count=100, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
