"""Checkpoints: a directory, or a model on the Hugging Face hub, with its config and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from zif.contract.errors import WeightsError
from zif.contract.weights import HostArray
from zif.files import read_json
from zif.weights.formats import WeightFormat, find_format
from zif.weights.places import file_not_directory, no_checkpoint, no_tensors
from zif.weights.safetensors import SafetensorsFile, Stored

CONFIG_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""What of a hub's repository a model and its tokenizer need besides tensors."""
DUPLICATES = ("original/*", "consolidated*", "onnx/*", "*.index.fp16.json")
"""The same weights once more, in other layouts."""

# (how models name tensors, how a checkpoint may): the first that fits a name is taken
_PREFIXES = (
    ("", ""),
    ("model.", ""),  # of the model without its head
    ("", "language_model."),  # part of a multimodal one, as it was before transformers 4.52
    ("model.", "model.language_model."),  # and since
)


class Tensors:
    """The tensors of a checkpoint by the names that models give them, whichever file they are in."""

    def __init__(self, files: Mapping[str, SafetensorsFile], where: str) -> None:
        self._files = files
        self.where = where
        """What was looked at, for messages."""

    @property
    def names(self) -> list[str]:
        """The checkpoint's own names."""
        return list(self._files)

    def locate(self, name: str) -> str | None:
        """The checkpoint's own name of the tensor that models call ``name``, None if it has none."""
        for ours, theirs in _PREFIXES:
            other = theirs + name.removeprefix(ours)
            if name.startswith(ours) and other in self._files:
                return other
        return None

    def stored(self, name: str) -> Stored | None:
        """Shape, dtype and size of the tensor that models call ``name``, None if there is none."""
        own = self.locate(name)
        return None if own is None else self._files[own].tensors[own]

    def nbytes(self, name: str) -> int:
        """Size in bytes, as stored."""
        return self._files[self._own(name)].tensors[self._own(name)].nbytes

    def read(self, name: str) -> HostArray:
        """A read-only view of the file's pages."""
        return self._files[self._own(name)].view(self._own(name))

    def release(self, name: str) -> None:
        """Give back the memory that reading a tensor took."""
        self._files[self._own(name)].release(self._own(name))

    def _own(self, name: str) -> str:
        own = self.locate(name)
        assert own is not None, f"{name} was not looked for before it was read"
        return own


class Checkpoint:
    """A directory with ``config.json`` and, for all but dummy weights, safetensors files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``. Raises WeightsError if it is missing or no JSON object."""
        if not (self.path / "config.json").is_file():
            raise no_checkpoint(self.path)
        config = read_json(self.path / "config.json")
        find_format(self.path, config)
        return config

    @cached_property
    def format(self) -> WeightFormat:
        """How its weights are stored. Raises UnsupportedModel for what zif does not read; so does ``config``."""
        return find_format(self.path, self.config)

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """``generation_config.json``, empty if there is none."""
        path = self.path / "generation_config.json"
        return read_json(path) if path.is_file() else {}

    @cached_property
    def tensors(self) -> Tensors:
        """Its tensors: those that the index lists, or that all ``*.safetensors`` hold.

        Raises WeightsError where there are none, or files of the index are missing.
        """
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            return self._indexed(index)
        single = self.path / "model.safetensors"
        paths = [single] if single.is_file() else sorted(self.path.glob("*.safetensors"))
        paths = [path for path in paths if path.is_file() and not path.name.startswith(("consolidated", "adapter_"))]
        if not paths:
            raise no_tensors(self.path)
        files = [SafetensorsFile(path) for path in paths]
        owners: dict[str, SafetensorsFile] = {}
        for file in files:
            for name in file.tensors:
                if owners.setdefault(name, file) is not file:
                    raise WeightsError(
                        f"{owners[name].path} and {file.path} both hold {name}, and no model.safetensors.index.json "
                        "says which is meant: remove the files that are not the model's"
                    )
        return Tensors(owners, ", ".join(map(str, paths)))

    def _indexed(self, index: Path) -> Tensors:
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise WeightsError(f"{index} has no weight_map of tensors to files")
        for shard in sorted(set(shards.values())):
            if not shard or Path(shard).is_absolute() or ".." in Path(shard).parts:
                raise WeightsError(f"{index} places tensors in {shard!r}, which is not a file of this directory")
        missing = sorted({name for name in shards.values() if not (self.path / name).is_file()})
        if missing:
            raise WeightsError(f"{index} lists files that are not there: {_some(missing)}; download them again")
        files = {name: SafetensorsFile(self.path / name) for name in sorted(set(shards.values()))}
        absent = [tensor for tensor, shard in shards.items() if tensor not in files[shard].tensors]
        if absent:
            raise WeightsError(f"{index} places {absent[0]} in {shards[absent[0]]}, which does not hold it")
        return Tensors({tensor: files[shard] for tensor, shard in shards.items()}, f"the {len(files)} files of {index}")


def open_checkpoint(model: str | Path, revision: str | None = None, *, tensors: bool = True) -> Checkpoint:
    """The checkpoint in a directory, or of a model on the hub, downloaded if it is not cached.

    ``revision`` is a branch, tag or commit on the hub. ``tensors`` False leaves the weights out of
    the download. Raises :class:`WeightsError` for what cannot be found, read or downloaded.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return Checkpoint(path)
    if path.exists():
        raise file_not_directory(path)
    if path.is_absolute() or str(model).count("/") > 1 or str(model).startswith((".", "~")):
        raise WeightsError(f"{model} does not exist")
    return Checkpoint(_download(str(model), revision, tensors))


def _download(repository: str, revision: str | None, tensors: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = [*CONFIG_FILES, *(["*.safetensors"] if tensors else [])]
    try:
        found = snapshot_download(
            repository, revision=revision, allow_patterns=patterns, ignore_patterns=list(DUPLICATES)
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository} is gated: accept its terms on https://huggingface.co/{repository}, then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{repository} has no revision {revision!r} on the Hugging Face hub") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise WeightsError(
            f"{repository!r} is neither a directory here nor a model on the Hugging Face hub "
            "(a private one needs `hf auth login`)"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{repository} is not a directory here, and cannot be downloaded: {reason}") from error
    return Path(found)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
