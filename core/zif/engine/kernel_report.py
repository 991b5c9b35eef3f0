"""The start log's lines on kernels: those chosen, those refused before them, and ops without a fast one."""

from __future__ import annotations

import logging

from zif.contract.binding import Bound, KernelChoice

logger = logging.getLogger(__name__)


def report_choices(bound: Bound, reference: str) -> None:
    """Log each op for which a kernel was passed over, with the reason, and in which form kernels give their results.

    It is a warning where the provider ``reference`` serves instead, and does so by waiting for the device: that is
    slow, and cannot be captured. (Many of its kernels are the framework's own, and fast.) Requests that were decided
    alike are one line. One line more says which ops run on the reference's kernels although the backend has its own.
    """
    said: dict[tuple[str, str, str], KernelChoice] = {}
    for choice in bound.choices:
        if choice.rejected:
            reasons = "; ".join(f"{entry.kernel}: {entry.reason}" for entry in choice.rejected)
            said.setdefault((choice.request.op, str(choice.kernel), reasons), choice)
    for (op, kernel, reasons), choice in said.items():
        if choice.kernel.provider == reference and not choice.kernel.capturable:
            logger.warning("%s: %s serves: steps are slow, and not captured as graphs (%s)", op, kernel, reasons)
        else:
            logger.info("%s: %s serves (%s)", op, kernel, reasons)
    for one in bound.forms:
        logger.info("%s gives %s (%s)", one.kernel, one.form or "plain arrays", one.reason)
    fallen = {
        op: choice.rejected[0].reason for (op, _, _), choice in said.items() if choice.kernel.provider == reference
    }
    if fallen:
        told = "; ".join(f"{op} ({reason})" for op, reason in fallen.items())
        logger.warning("on kernels of %s, although the backend has its own: %s", reference, told)
