"""Compiles the native kernels for this machine at first use, and keeps the result.

The library is plain C ABI and needs no header of torch or Python, only a C++20 compiler. It is kept
under the user's cache directory, under a key of everything that decides what is in it: sources,
flags, compiler, and the processor's features.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from zif.reference.host import user_cache

progress = logging.getLogger("zif.progress")
SOURCES = Path(__file__).parent / "native"
FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC",
    "-pthread",
)  # fmt: skip
COMPILERS = ("g++", "c++")
TIMEOUT_SECONDS = 300


class BuildFailed(Exception):
    """The native kernels cannot be had on this machine; the message is one line, for users."""


def library() -> Path:
    """Path of the compiled library, compiled now if it is not in the cache. Raises BuildFailed."""
    compiler = find_compiler()
    target = cache_directory() / f"zif_cpu-{_key(compiler)}.so"
    if not target.exists():
        progress.info("compiling cpu's kernels for this processor, once: it takes some ten seconds")
        _compile(compiler, target)
    return target


def find_compiler() -> str:
    """Path of $CXX, or of the first known C++ compiler; raises BuildFailed where there is none."""
    chosen = os.environ.get("CXX")
    names = (chosen,) if chosen else COMPILERS
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    missing = f"CXX={chosen} is not there" if chosen else f"no C++ compiler found ({', '.join(COMPILERS)})"
    raise BuildFailed(f"{missing}; install g++ for the native kernels")


def cache_directory() -> Path:
    """The user's cache directory for zif, made if need be."""
    try:
        directory = user_cache() / "zif" / "cpu"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        place, why = error.filename, error.strerror
        raise BuildFailed(f"cannot keep native kernels in {place}: {why}; set XDG_CACHE_HOME") from error
    return directory


def _key(compiler: str) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    status = os.stat(compiler)
    digest.update(repr((FLAGS, os.path.realpath(compiler), status.st_size, status.st_mtime_ns)).encode())
    digest.update(_processor().encode())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """What ``-march=native`` depends on: a cache in a shared home must not serve another machine."""
    wanted = ("model name", "flags", "features", "cpu part")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return platform.machine() + "".join(line for line in lines if line.split(":")[0].strip().lower() in wanted)


def _compile(compiler: str, target: Path) -> None:
    sources = sorted(SOURCES.glob("*.cpp"))
    with _work_directory(target.parent) as work:
        objects = [work / f"{source.stem}.o" for source in sources]
        _run([[compiler, *FLAGS, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)])
        linked = work / target.name
        _run([[compiler, "-shared", "-pthread", "-Wl,-z,defs", "-o", str(linked), *map(str, objects)]])
        os.replace(linked, target)  # whole or not at all, whoever else compiles at the same time


@contextlib.contextmanager
def _work_directory(near: Path) -> Iterator[Path]:
    """On the target's own file system, so that the result can be moved into place."""
    try:
        directory = tempfile.TemporaryDirectory(dir=near, prefix="build-")
    except OSError as error:
        raise BuildFailed(f"cannot keep native kernels in {near}: {error.strerror}; set XDG_CACHE_HOME") from error
    with directory as path:
        yield Path(path)


def _run(commands: Sequence[Sequence[str]]) -> None:
    """Run commands side by side; raises BuildFailed with the first error line of one that failed."""
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
    failures = []
    try:
        for command, process in zip(commands, running, strict=True):
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            if process.returncode:
                lines = errors.splitlines() or [f"exit status {process.returncode}"]
                first = next((line for line in lines if "error" in line), lines[0])
                failures.append(f"{Path(command[0]).name} failed: {first.strip()}")
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"compiling the native kernels took more than {TIMEOUT_SECONDS} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    if failures:
        raise BuildFailed(failures[0])
