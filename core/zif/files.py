"""Reading a checkpoint's small files, which come from anywhere: bounded, and with errors that say what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zif.contract.errors import WeightsError

LONGEST_BYTES = 64 * 2**20
"""Of a JSON file or a template; an index of a thousand shards is a twentieth of it."""
_POINTER = b"version https://git-lfs.github.com/spec/"


def read_text(path: Path) -> str:
    """The text of a file. Raises WeightsError where it cannot be read, is too long, or is git-lfs's pointer to it."""
    try:
        if not path.is_file():  # a pipe or a device would be waited for
            raise WeightsError(f"{path} is not a file")
        size = path.stat().st_size
        if size > LONGEST_BYTES:
            raise WeightsError(f"{path} has {size} bytes; at most {LONGEST_BYTES} are read")
        content = path.read_bytes()
        refuse_pointer(path, content)
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises WeightsError where there is none."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except RecursionError:
        raise WeightsError(f"{path} cannot be read as JSON: it is nested too deeply") from None
    except ValueError as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds no JSON object")
    return value


def refuse_pointer(path: Path, beginning: bytes) -> None:
    """Raise WeightsError if a file that begins so is what git leaves without git-lfs."""
    if beginning.startswith(_POINTER):
        raise WeightsError(
            f"{path} is a git-lfs pointer, not the file itself: run `git lfs pull` in {path.parent}, or download it "
            "with `hf download`"
        )
