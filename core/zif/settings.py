"""Every setting of zif, once: flags, environment and file are all read into this one model.

Precedence: flags (or keyword arguments of :class:`zif.LLM`), then ``ZIF_*`` environment
variables, then the file named by ``--config`` (YAML or TOML), then the defaults. Names follow
SGLang's where it has them. None stands for "decided at start, from the model and the backend".
"""

from __future__ import annotations

import difflib
import logging
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.sources import InitSettingsSource

from zif.contract.errors import InvalidSettings

ENV_PREFIX = "ZIF_"
logger = logging.getLogger(__name__)
Group = Literal["model", "device", "memory and scheduling", "server", "general"]


def _setting(default: Any, group: Group, description: str, **limits: Any) -> Any:
    return Field(default=default, description=description, json_schema_extra={"group": group}, **limits)


class Settings(BaseSettings):
    """Settings of an engine and its server, validated together.

    Raises :class:`InvalidSettings`; the message names each wrong setting's flag and where its
    value came from.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    config: Path | None = _setting(None, "general", "file of settings, YAML or TOML; flags and environment win over it")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "general", "what to log; debug also prints the traceback of a failure"
    )

    model: str | None = _setting(
        None, "model", "directory of a checkpoint, or a Hugging Face id; the bundled model if not given"
    )
    revision: str | None = _setting(None, "model", "branch, tag or commit of a Hugging Face model")
    tokenizer_path: str | None = _setting(
        None, "model", "directory or Hugging Face id of the tokenizer, if not the model's"
    )
    chat_template: Path | None = _setting(
        None, "model", "file with a Jinja chat template to use instead of the model's"
    )
    special_tokens_in_text: Literal["tokens", "text"] = _setting(
        "tokens",
        "model",
        "what a client's text that spells a control token (<|im_end|>) becomes: that token, as in vLLM and SGLang, or "
        "plain text",
    )
    served_model_name: str | None = _setting(None, "model", "name that clients see; the model's own if not given")
    load_format: Literal["auto", "dummy"] = _setting(
        "auto", "model", "dummy draws random weights and reads config.json alone"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = _setting(
        "auto", "model", "what activations are computed in; auto: the checkpoint's, if the backend has it"
    )
    kv_cache_dtype: str = _setting(
        "auto",
        "model",
        "what keys and values are stored in: a dtype, fp8_e4m3, fp8_e5m2, int8, or a format that an extension brings, "
        "as far as the backend has it; auto: as dtype",
    )
    context_length: int | None = _setting(
        None, "model", "longest prompt and output together, in tokens; the model's own if not given", gt=0
    )

    device: str = _setting(
        "auto", "device", "backend, as `zif devices` lists them, or backend:index; auto takes the most preferred one"
    )
    device_opt: Annotated[tuple[str, ...], NoDecode] = _setting(
        (), "device", "backend.key=value: an option of the backend's own; can be repeated"
    )
    kernel: Annotated[dict[str, str], NoDecode] = _setting(
        {}, "device", "op=name: the only kernel (or provider) that may serve an op; can be repeated"
    )
    tp_size: int = _setting(1, "device", "devices that share each layer (tensor parallelism)", ge=1)

    mem_fraction_static: float | None = _setting(
        None, "memory and scheduling", "share of the device's memory for weights and KV cache", gt=0, lt=1
    )
    max_total_tokens: int | None = _setting(
        None, "memory and scheduling", "tokens that the KV cache holds; from the memory if not given", gt=0
    )
    page_size: int | None = _setting(
        None, "memory and scheduling", "tokens in a page of the KV cache; the backend's choice if not given", gt=0
    )
    max_running_requests: int | None = _setting(None, "memory and scheduling", "requests that decode together", gt=0)
    max_queued_requests: int | None = _setting(
        None,
        "memory and scheduling",
        "sequences that may wait (a request with n choices has n); beyond it requests are refused with 429; "
        "if not given 8192 in a server, any number in zif.LLM",
        gt=0,
    )
    chunked_prefill_size: int | None = _setting(
        None, "memory and scheduling", "prompt tokens in a step, of all requests; -1: up to a whole context", ge=-1
    )
    schedule_policy: Literal["lpm", "fcfs"] = _setting(
        "lpm",
        "memory and scheduling",
        "order of waiting requests: longest cached prefix first, or first come first served",
    )
    schedule_conservativeness: float = _setting(
        1.0, "memory and scheduling", "larger admits fewer requests, so that fewer are retracted when KV runs out", gt=0
    )
    disable_radix_cache: bool = _setting(
        False, "memory and scheduling", "do not keep KV of finished requests for shared prefixes"
    )
    disable_overlap_schedule: bool = _setting(
        False, "memory and scheduling", "prepare a step only when the one before it has ended"
    )
    random_seed: int | None = _setting(
        None, "memory and scheduling", "seed of requests that bring none, so that a run can be repeated", ge=0
    )

    host: str = _setting("127.0.0.1", "server", "address to listen on")
    port: int = _setting(30000, "server", "port to listen on; 0: any free one", ge=0, le=65535)
    api_key: SecretStr | None = _setting(None, "server", "key that clients must send as a bearer token", min_length=1)
    api_key_file: Path | None = _setting(
        None, "server", "file of keys, one a line, each of which clients may send as a bearer token"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = _setting(
        (),
        "server",
        "a host name that clients may ask for, besides those of loopback where that is listened on; *: any; "
        "can be repeated",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = _setting(
        (), "server", "origin of web pages that may use the server (https://example.org); *: any; can be repeated"
    )
    cache_isolation: Literal["none", "api-key"] = _setting(
        "none", "server", "api-key: requests share cached prefixes only with those that sent the same key"
    )
    max_concurrent_requests: int = _setting(
        2048,
        "server",
        "requests in the server at once, waiting ones included; beyond it they are refused with 429",
        gt=0,
    )
    max_body_bytes: int = _setting(
        32 * 2**20, "server", "longest body of a request, in bytes; a longer one is refused with 413", gt=0
    )
    max_total_body_bytes: int = _setting(
        256 * 2**20,
        "server",
        "bytes of all bodies in memory at once, one at the least; beyond it requests are refused with 429",
        gt=0,
    )
    incremental_streaming_output: bool = _setting(
        False, "server", "streams of /generate carry what is new alone, not the text so far"
    )
    sampling_defaults: Literal["model", "openai"] = _setting(
        "model",
        "server",
        "what requests get that leave sampling open: the model's generation_config.json, "
        "or OpenAI's (temperature 1, nothing cut off)",
    )
    access_log: bool = _setting(
        True, "server", "log a line a request: client, method, path and status; probes that are well are left out"
    )
    watchdog_timeout: float | None = _setting(
        None,
        "server",
        "seconds in which a step must end, or the device counts as hung and the engine is ended; 0: never; "
        "if not given 300, or 900 where the host itself computes",
        ge=0,
    )
    drain_timeout: float = _setting(
        30.0, "server", "seconds that running requests get to finish when the server is stopped", ge=0
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidSettings(_explain(error, values)) from None

    @field_validator("device_opt", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        return [item for item in value.split(",") if item] if isinstance(value, str) else value

    @field_validator("kernel", mode="before")
    @classmethod
    def _parse_pins(cls, value: Any) -> Any:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            return items
        pins: dict[str, str] = {}
        for item in items:
            op, equals, name = str(item).partition("=")
            if not (op and equals and name):
                raise ValueError(f"{item!r} is not op=name")
            pins[op] = name
        return pins

    @field_validator("chunked_prefill_size")
    @classmethod
    def _chunk_is_not_zero(cls, value: int | None) -> int | None:
        if value == 0:
            raise ValueError("must be -1 (whole prompts) or at least 1")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that either of them names."""
        environment = _without_service_link(env_settings())
        path = init_settings().get("config") or environment.get("config")
        file = read_file(Path(path)) if path else {}
        return (
            init_settings,
            InitSettingsSource(settings_cls, environment),
            InitSettingsSource(settings_cls, file),
        )


def flag_of(name: str) -> str:
    """``page_size`` as its flag, ``--page-size``."""
    return "--" + name.replace("_", "-")


def group_of(info: FieldInfo) -> str:
    """The heading of ``--help`` that a setting stands under."""
    assert isinstance(info.json_schema_extra, dict)
    return str(info.json_schema_extra["group"])


def _without_service_link(environment: dict[str, Any]) -> dict[str, Any]:
    """The environment's settings, less what Kubernetes puts there where a Service is called "zif"."""
    port = str(environment.get("port", ""))
    if "://" not in port:
        return environment
    logger.warning(
        "%sPORT=%s is ignored: it is no port, but Kubernetes' link to a Service called zif "
        "(enableServiceLinks: false in the pod keeps it out); set the port with --port",
        ENV_PREFIX,
        port,
    )
    return {name: value for name, value in environment.items() if name != "port"}


def read_file(path: Path) -> dict[str, Any]:
    """Settings in a YAML or TOML file; ``page-size`` and ``page_size`` are the same name.

    Raises :class:`InvalidSettings` if it cannot be read, is neither, or is not a table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"--config {path}: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InvalidSettings(f"--config {path}: holds a {type(content).__name__}, not a table of settings")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def _explain(error: ValidationError, values: dict[str, Any]) -> str:
    return "; ".join(_explain_one(dict(detail), values) for detail in error.errors(include_url=False))


def _explain_one(detail: dict[str, Any], values: dict[str, Any]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, Settings.model_fields, n=1)
        return f"unknown setting {name!r}" + (f": did you mean {close[0]!r}?" if close else "")
    variable = ENV_PREFIX + name.upper()
    if name in values:
        source = ""
    elif variable in os.environ:
        source = f" (from {variable})"
    else:
        source = " (from the settings file)"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = "" if name == "api_key" else f" {detail['input']!r}"
    return f"{flag_of(name)}{shown}{source}: {message}"
