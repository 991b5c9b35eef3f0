"""What the suite finds out, and how it is told."""

from __future__ import annotations

import logging
import shlex
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

logger = logging.getLogger(__name__)

Status = Literal["pass", "fail", "skip", "waived"]
SCHEMA = 1
"""Version of the JSON report."""


@dataclass(frozen=True, slots=True)
class Result:
    """One check. ``name`` is a path: section, subject, and what tells it from its like.

    ``detail`` says why for anything but a pass. ``subject`` groups results in the table. ``seconds`` it took; None
    for what was found out together with others. ``suspect`` is the part of the backend that a failure points to: a
    kernel as ``provider.kernel``, ``packer`` or ``executables``. ``measured``: how near what was compared came.
    """

    section: str
    subject: str
    case: str
    status: Status
    detail: str = ""
    seconds: float | None = field(default=None, compare=False)
    suspect: str = ""
    measured: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """``section/subject/case``, which ``--only`` and waivers match."""
        return "/".join(part for part in (self.section, self.subject, self.case) if part)


@dataclass(frozen=True)
class Waiver:
    """Failures that are known: a pattern of names, and the reason, which cites where it is tracked."""

    pattern: str
    reason: str

    def covers(self, result: Result) -> bool:
        """Whether the pattern matches the result's name."""
        return fnmatchcase(result.name, self.pattern)


@dataclass
class Report:
    """Every result of one run over one backend."""

    device: str
    distribution: str
    results: list[Result] = field(default_factory=list)
    suite: int = SCHEMA

    @property
    def counts(self) -> dict[str, int]:
        """Results by status."""
        found = Counter(result.status for result in self.results)
        return {status: found[status] for status in ("pass", "fail", "skip", "waived")}

    @property
    def passed(self) -> bool:
        """Whether the backend conforms; a run that checked nothing shows nothing."""
        return self.counts["pass"] > 0 and not self.counts["fail"]

    def failures(self) -> list[Result]:
        """The results that failed."""
        return [result for result in self.results if result.status == "fail"]

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "schema": self.suite,
            "device": self.device,
            "distribution": self.distribution,
            "counts": self.counts,
            "conforms": self.passed,
            "results": [
                {"name": result.name, **asdict(result), "command": self.command(result)} for result in self.results
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """A table's rows: one for each subject."""
        subjects: dict[tuple[str, str], Counter[str]] = {}
        for result in self.results:
            subjects.setdefault((result.section, result.subject), Counter())[result.status] += 1
        return [
            {"section": section, "subject": subject, **{status: found[status] or None for status in self.counts}}
            for (section, subject), found in subjects.items()
        ]

    def summary(self) -> str:
        """A line for each thing that did not pass (skips alike share one), and the verdict."""
        lines = [line for result in self.failures() for line in self._failure(result)]
        lines += [f"waived {result.name}: {result.detail}" for result in self.results if result.status == "waived"]
        skips = Counter(
            (result.section, result.subject, result.detail) for result in self.results if result.status == "skip"
        )
        lines += [f"skip {section}/{subject} ({count}): {why}" for (section, subject, why), count in skips.items()]
        lines += [f"{result.name}: {result.measured}" for result in self.results if result.measured]
        counts = (
            ", ".join(f"{count} {status}" for status, count in self.counts.items() if count) or "nothing was checked"
        )
        verdict = "conforms" if self.passed else "DOES NOT CONFORM"
        return "\n".join([*lines, f"{self.device} ({self.distribution}) {verdict}: {counts}"])

    def command(self, result: Result) -> str:
        """What runs this check alone."""
        return f"zif check --device {self.device.partition(':')[0]} --only {shlex.quote(result.name)}"

    def _failure(self, result: Result) -> Iterator[str]:
        yield f"FAIL {result.name}: {result.detail}"
        if result.suspect:
            yield f"  suspect: {result.suspect}"
        if result.section != "waivers":
            yield f"  again: {self.command(result)}"


class Recorder:
    """Collects results; a check that raises fails, and the others still run."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self.only = tuple(only)
        self.results: list[Result] = []

    def wants(self, section: str, subject: str = "") -> bool:
        """Whether ``--only`` leaves anything of this to be checked."""
        if not self.only:
            return True
        name = f"{section}/{subject}" if subject else section
        return any(_may_match(pattern, name) for pattern in self.only)

    def begins(self, section: str) -> bool:
        """As :meth:`wants`, of a whole section; the log says that it begins."""
        wanted = self.wants(section)
        if wanted:
            logger.info("checking %s", section)
        return wanted

    def asks(self, section: str, subject: str, case: str) -> bool:
        """Whether ``--only`` leaves this very check."""
        name = Result(section, subject, case, "pass").name
        return not self.only or any(_matches(pattern, name) for pattern in self.only)

    def add(
        self,
        section: str,
        subject: str,
        case: str,
        status: Status,
        detail: str = "",
        seconds: float | None = None,
        suspect: str = "",
        measured: str = "",
    ) -> None:
        """Record a result, if it was asked for."""
        if self.asks(section, subject, case):
            self.results.append(Result(section, subject, case, status, detail, seconds, suspect, measured))

    def check(
        self,
        section: str,
        subject: str,
        case: str,
        test: Callable[[], str | None],
        level: int = logging.DEBUG,
        *,
        blame: Callable[[], str] = lambda: "",
        measured: Callable[[], str] = lambda: "",
    ) -> bool:
        """Run ``test``, which returns None or what is wrong, if it is asked for. Returns whether it did not fail.

        ``blame`` is asked for the suspect where it fails, ``measured`` for how near it came where it passes.
        """
        if not self.asks(section, subject, case):
            return True
        status: Status
        begin = time.monotonic()
        try:
            fault = test()
            status = "fail" if fault else "pass"
        except Skip as skip:
            status, fault = "skip", str(skip)
        except Exception as error:
            status, fault = "fail", f"{type(error).__name__}: {' '.join(str(error).split())}{_raised_at(error)}"
        suspect = blame() if status == "fail" else ""
        seconds = round(time.monotonic() - begin, 3)
        logger.log(level, "%s/%s/%s: %s, %.1f s", section, subject, case, status, seconds)
        near = measured() if status == "pass" else ""
        self.add(section, subject, case, status, fault or "", seconds, suspect, near)
        return status != "fail"


class Skip(Exception):
    """Raised by a check that does not apply; says why."""


def apply_waivers(results: Sequence[Result], waivers: Sequence[Waiver]) -> Iterator[Result]:
    """Results with the covered failures waived; strictly: a waiver that covers no failure is one itself."""
    used = set()
    for result in results:
        waiver = next((w for w in waivers if w.covers(result)), None) if result.status == "fail" else None
        if waiver is None:
            yield result
            continue
        used.add(waiver)
        yield replace(result, status="waived", detail=f"{waiver.reason} (it said: {result.detail})")
    for waiver in waivers:
        if waiver not in used:
            yield Result("waivers", waiver.pattern, "", "fail", "covers no failure: remove it")


_OTHERS = ("torch", "jax", "jaxlib", "numpy", "triton")
"""Libraries in which an exception may be raised that a kernel is to blame for."""


def _raised_at(error: BaseException) -> str:
    """The file and line that raised, or that called the library which did."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(f"/{name}/" in frame.filename for name in _OTHERS)]
    return f" ({own[-1].filename}:{own[-1].lineno}, in {own[-1].name})" if own else ""


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(pattern.rstrip("/") + "/") or name == pattern


def _may_match(pattern: str, prefix: str) -> bool:
    """Whether a name that begins with ``prefix`` could match ``pattern``."""
    parts = zip(prefix.split("/"), pattern.split("/"), strict=False)
    return all(fnmatchcase(part, wanted) for part, wanted in parts)
