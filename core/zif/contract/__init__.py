"""The contract between core, models and backends: everything that an author imports.

Each name lives in the module that documents it, and is imported from there when it is first asked for, so that a
plugin's module and its probe stay light. The modules are core's own: a name that is not here may move.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zif.contract.ahead import AheadBackend as AheadBackend
    from zif.contract.ahead import AheadExecutable as AheadExecutable
    from zif.contract.ahead import AheadReport as AheadReport
    from zif.contract.arrays import TREE_TYPES as TREE_TYPES
    from zif.contract.arrays import Array as Array
    from zif.contract.arrays import ArraySpec as ArraySpec
    from zif.contract.arrays import Tree as Tree
    from zif.contract.arrays import dtype_bytes as dtype_bytes
    from zif.contract.arrays import tree as tree
    from zif.contract.arrays import tree_leaves as tree_leaves
    from zif.contract.arrays import tree_map as tree_map
    from zif.contract.attention import AttentionSpec as AttentionSpec
    from zif.contract.attention import RopeSpec as RopeSpec
    from zif.contract.backend import Backend as Backend
    from zif.contract.backend import Capabilities as Capabilities
    from zif.contract.backend import ConfigChange as ConfigChange
    from zif.contract.backend import MemoryInfo as MemoryInfo
    from zif.contract.backend import Runtime as Runtime
    from zif.contract.binding import Bound as Bound
    from zif.contract.binding import bind as bind
    from zif.contract.cache import CacheFormat as CacheFormat
    from zif.contract.cache import CacheGroup as CacheGroup
    from zif.contract.comm import ONE_DEVICE as ONE_DEVICE
    from zif.contract.comm import PARTIAL as PARTIAL
    from zif.contract.comm import Communicator as Communicator
    from zif.contract.comm import Group as Group
    from zif.contract.comm import Partial as Partial
    from zif.contract.cost import Cost as Cost
    from zif.contract.cost import OpCall as OpCall
    from zif.contract.errors import IncompatiblePlugin as IncompatiblePlugin
    from zif.contract.errors import InvalidRequest as InvalidRequest
    from zif.contract.errors import InvalidSettings as InvalidSettings
    from zif.contract.errors import KernelNotFound as KernelNotFound
    from zif.contract.errors import NoUsableDevice as NoUsableDevice
    from zif.contract.errors import OutOfMemory as OutOfMemory
    from zif.contract.errors import PluginError as PluginError
    from zif.contract.errors import UnsupportedModel as UnsupportedModel
    from zif.contract.errors import WeightsError as WeightsError
    from zif.contract.errors import ZifError as ZifError
    from zif.contract.executable import NO_FACTS as NO_FACTS
    from zif.contract.executable import Executable as Executable
    from zif.contract.executable import Executables as Executables
    from zif.contract.executable import Fetch as Fetch
    from zif.contract.executable import Program as Program
    from zif.contract.executable import ProgramFacts as ProgramFacts
    from zif.contract.executable import Slot as Slot
    from zif.contract.executable import Staged as Staged
    from zif.contract.experts import ClampedGate as ClampedGate
    from zif.contract.experts import RouteSpec as RouteSpec
    from zif.contract.form import Form as Form
    from zif.contract.formats import EIGHT_BITS as EIGHT_BITS
    from zif.contract.formats import PlainFormat as PlainFormat
    from zif.contract.formats import ScaledFormat as ScaledFormat
    from zif.contract.formats import plain_formats as plain_formats
    from zif.contract.formats import reference_formats as reference_formats
    from zif.contract.formats import unless_known as unless_known
    from zif.contract.formats import unless_plain as unless_plain
    from zif.contract.hookspecs import hookimpl as hookimpl
    from zif.contract.info import Available as Available
    from zif.contract.info import BackendInfo as BackendInfo
    from zif.contract.info import Device as Device
    from zif.contract.info import DeviceOption as DeviceOption
    from zif.contract.info import ExtensionInfo as ExtensionInfo
    from zif.contract.info import ModelOverride as ModelOverride
    from zif.contract.info import ProbeResult as ProbeResult
    from zif.contract.info import Unavailable as Unavailable
    from zif.contract.kernels import Kernel as Kernel
    from zif.contract.kernels import KernelSet as KernelSet
    from zif.contract.kernels import When as When
    from zif.contract.kernels import dtypes as dtypes
    from zif.contract.kernels import kernel as kernel
    from zif.contract.level import added as added
    from zif.contract.model import InputSpec as InputSpec
    from zif.contract.model import Model as Model
    from zif.contract.model import ModelFamily as ModelFamily
    from zif.contract.model import divided as divided
    from zif.contract.model import local_attention as local_attention
    from zif.contract.model import unsafe_dtypes as unsafe_dtypes
    from zif.contract.opspec import OpRequest as OpRequest
    from zif.contract.optable import Ops as Ops
    from zif.contract.packer import HostTensors as HostTensors
    from zif.contract.packer import Packer as Packer
    from zif.contract.step import HostStep as HostStep
    from zif.contract.step import Step as Step
    from zif.contract.step import StepShape as StepShape
    from zif.contract.version import API_VERSION as API_VERSION
    from zif.contract.version import OLDEST_API_VERSION as OLDEST_API_VERSION
    from zif.contract.weights import ALONE as ALONE
    from zif.contract.weights import EmbeddingSpec as EmbeddingSpec
    from zif.contract.weights import Encoded as Encoded
    from zif.contract.weights import ExpertsSpec as ExpertsSpec
    from zif.contract.weights import ExpertTensors as ExpertTensors
    from zif.contract.weights import HeadsSpec as HeadsSpec
    from zif.contract.weights import HostArray as HostArray
    from zif.contract.weights import LinearSpec as LinearSpec
    from zif.contract.weights import LoopStack as LoopStack
    from zif.contract.weights import PackedWeight as PackedWeight
    from zif.contract.weights import RepeatedSpec as RepeatedSpec
    from zif.contract.weights import Shard as Shard
    from zif.contract.weights import VectorSpec as VectorSpec
    from zif.contract.weights import WeightSpec as WeightSpec

_HOMES = {
    "ahead": "AheadBackend AheadExecutable AheadReport",
    "arrays": "Array ArraySpec TREE_TYPES Tree dtype_bytes tree tree_leaves tree_map",
    "attention": "AttentionSpec RopeSpec",
    "backend": "Backend Capabilities ConfigChange MemoryInfo Runtime",
    "binding": "Bound bind",
    "cache": "CacheFormat CacheGroup",
    "comm": "Communicator Group ONE_DEVICE PARTIAL Partial",
    "cost": "Cost OpCall",
    "errors": (
        "IncompatiblePlugin InvalidRequest InvalidSettings KernelNotFound NoUsableDevice OutOfMemory "
        "PluginError UnsupportedModel WeightsError ZifError"
    ),
    "executable": "Executable Executables Fetch NO_FACTS Program ProgramFacts Slot Staged",
    "experts": "ClampedGate RouteSpec",
    "form": "Form",
    "formats": "EIGHT_BITS PlainFormat ScaledFormat plain_formats reference_formats unless_known unless_plain",
    "hookspecs": "hookimpl",
    "info": "Available BackendInfo Device DeviceOption ExtensionInfo ModelOverride ProbeResult Unavailable",
    "kernels": "Kernel KernelSet When dtypes kernel",
    "level": "added",
    "model": "InputSpec Model ModelFamily divided local_attention unsafe_dtypes",
    "opspec": "OpRequest",
    "optable": "Ops",
    "packer": "HostTensors Packer",
    "step": "HostStep Step StepShape",
    "version": "API_VERSION OLDEST_API_VERSION",
    "weights": (
        "ALONE EmbeddingSpec Encoded ExpertTensors ExpertsSpec HeadsSpec HostArray LinearSpec LoopStack "
        "PackedWeight RepeatedSpec Shard VectorSpec WeightSpec"
    ),
}
"""Module -> the names that it has for authors, in the order of the alphabet."""
_MODULES = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a name of the contract when it is first asked for."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"the contract has no {name!r}: zif.contract lists what authors import")
    return getattr(importlib.import_module(f"zif.contract.{module}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
