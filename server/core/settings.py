"""Every setting, once: its name, type, default and meaning. Frozen.

A setting ``max_queue`` is the flag ``--max-queue``, the environment variable ``SHIRA_MAX_QUEUE`` and the key
``max_queue`` of the config file (``server.core.config`` says which wins).
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from server.core.keys import ApiKey, parse_keys

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)}
_UNITS |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)}


def parse_bytes(value: object) -> object:
    """``"2GiB"``, ``"500 MB"`` or a plain number, to bytes. Leaves other types for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError("expected a number of bytes such as 1073741824, 512MiB or 2GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _check_redis(value: str) -> str:
    if value in ("embedded", "off"):
        return value
    url = urlsplit(value)
    if url.scheme not in ("redis", "rediss", "unix") or not (url.hostname or url.path):
        raise ValueError("expected embedded, off, or a URL that starts with redis://, rediss:// or unix://")
    return value


def _check_collector(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("expected the base URL of a collector, such as http://127.0.0.1:4318")
    if "@" in url.netloc:
        raise ValueError("expected a URL without a password: OTEL_EXPORTER_OTLP_HEADERS takes one")
    return value


def _parse_auto(value: object) -> object:
    return None if value == "auto" else value


def _parse_api_keys(value: object) -> object:
    return parse_keys(value) if isinstance(value, str) else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes), BeforeValidator(_no_bool), Field(ge=0, le=2**50)]
Directory = Annotated[Path, AfterValidator(Path.expanduser), AfterValidator(Path.absolute)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=2**31 - 1)]
Milliseconds = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=24 * 3600 * 1000)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=24 * 3600, allow_inf_nan=False)]


class ServerConfig(BaseModel):
    """Built by ``load_config``; the types here are what the rest of the server sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: str = Field(
        default="SmolLM2-135M-Instruct",
        min_length=1,
        description="Base model: a directory, a hub id or the default's name, whose source @hub or @package behind it "
        "insists on.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto", description="Dtype of the base in memory; auto is as stored, for a pipeline as its denoiser is."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the base lives.")
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, BeforeValidator(_parse_auto)] = Field(
        default=None, description="Threads for torch; auto lets torch choose."
    )
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    port: Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=65535)] = Field(
        default=8000, description="Port to listen on; 0 picks a free one."
    )
    data_dir: Directory = Field(
        description="Where adapters and converted models are kept; by default under the data home."
    )
    models_dir: Directory | None = Field(
        default=None, description="Where base models are converted to; by default models/ in the data directory."
    )
    redis: Annotated[str, AfterValidator(_check_redis)] = Field(
        default="embedded", repr=False, description="embedded, off, or the URL of a Redis that replicas share."
    )
    host_budget_bytes: Bytes = Field(default=2 * 1024**3, description="Adapter bytes kept in host memory.")
    device_budget_bytes: Bytes = Field(default=1024**3, description="Staged blends kept on the device.")
    kv_budget_bytes: Bytes = Field(default=1024**3, description="Memory for the KV cache of running requests.")
    redis_values_budget_bytes: Bytes = Field(
        default=256 * 1024**2, description="Adapter values kept in Redis beside the index sets."
    )
    max_body_bytes: Annotated[Bytes, Field(ge=1024)] = Field(
        default=2 * 1024**3, description="Largest upload accepted."
    )
    max_queue: Count = Field(default=256, description="Requests waiting; beyond it new ones get 429.")
    max_batch: Count = Field(default=32, description="Sequences run in one step.")
    max_step_tokens: Count = Field(
        default=256,
        description="Tokens computed in one step; longer prompts go through in chunks, beside answers that go on.",
    )
    schedule: Literal["auto", "fused", "mixed"] = Field(
        default="auto",
        description="fused: one blend per step, in the weights; mixed: blends beside each other in one step wherever "
        "they can be; auto chooses for each step by the measured cost.",
    )
    max_forward_pixels: Count = Field(
        default=4 * 1024 * 1024,
        description="Pixels of the images that one forward denoises together; one image always runs.",
    )
    max_slowdown: Annotated[float, BeforeValidator(_no_bool), Field(ge=1, le=1000, allow_inf_nan=False)] = Field(
        default=2.0,
        description="A step that runs blends beside each other takes at most so many times what the same rows take "
        "under one; the blends beyond that wait for the next step.",
    )
    patience_steps: Count = Field(
        default=512,
        description="A request that got no token for so many steps goes ahead of all others, however rare its adapter.",
    )
    calibrate: bool = Field(
        default=True, description="Measure what steps and switches cost here at start; off: built-in figures."
    )
    max_new_tokens: Count = Field(default=2048, description="Most new tokens that a request may ask for.")
    max_prompt_tokens: Count = Field(default=8192, description="Longest prompt, in tokens.")
    max_inference_steps: Count = Field(
        default=200,
        description="Most denoising steps that a picture may take; heun and kdpm2 run the denoiser twice in each.",
    )
    max_images: Count = Field(
        default=16,
        description="Most pictures of the base's own size that one request may ask for; larger ones count more.",
    )
    max_image_side: Annotated[Count | None, BeforeValidator(_parse_auto)] = Field(
        default=None, description="Longest side of a picture, in pixels; auto is twice that of the base's own pictures."
    )
    default_deadline_ms: Milliseconds = Field(default=120_000, description="Deadline of a request that states none.")
    max_deadline_ms: Milliseconds = Field(default=600_000, description="Longest deadline that a request may state.")
    delete_wait_s: Seconds = Field(default=30.0, description="How long a delete waits for requests that use it.")
    audit_interval_s: Seconds = Field(
        default=3600.0, description="The base is audited so often, in slices between steps; 0: only when asked."
    )
    drain_s: Seconds = Field(default=30.0, description="How long a stop waits for running requests.")
    api_keys_file: Directory | None = Field(default=None, description="TOML file of API keys, as SHA-256 hashes.")
    api_keys: Annotated[tuple[ApiKey, ...], BeforeValidator(_parse_api_keys)] = Field(
        default=(), repr=False, description="Comma-separated secret:role[:tenant]; environment only."
    )
    allow_insecure_bind: bool = Field(default=False, description="Listen beyond loopback although no API key is set.")
    otlp_endpoint: Annotated[str, AfterValidator(_check_collector)] | None = Field(
        default=None,
        description="Traces go to the OpenTelemetry collector at this URL, by OTLP over HTTP; needs the extra tracing.",
    )
    trace_ratio: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        default=1.0, description="Share of the requests that is traced, of those whose caller does not decide it."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="One line of text or of JSON per record.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")

    @property
    def models_path(self) -> Path:
        return self.models_dir or self.data_dir / "models"

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False
