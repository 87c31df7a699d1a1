"""The description and the service agree, whatever is sent: bounded fuzzing from the server's own OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import allow_header_conformance, positive_data_acceptance

from adapters_store.blend import DELTA_METHODS, STEPWISE_METHODS
from server.api.app import build_api
from server.core.config import load_config
from tests.server.api.rig import PICTURES, make_services

NOT_CHECKED = [
    positive_data_acceptance,  # a schema cannot say "exactly one of prompt and messages", or what a valid adapter is
    allow_header_conformance,  # the framework lists the methods of one route, not of all on the path
]


@pytest.fixture(scope="module", params=[None, PICTURES], ids=["text", "pictures"])
def described(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[schemathesis.BaseSchema]:
    settings_ = {"data_dir": tmp_path_factory.mktemp("openapi"), "redis": "off"}
    services, store, _ = make_services(load_config(settings_, {"SHIRA_API_KEYS": "key:admin"}), request.param)
    yield schemathesis.openapi.from_asgi("/openapi.json", build_api(services))
    store.close()


SHARED_WORDS = ("finish_reason", "usage", "receipt", "index", "error", "[DONE]")
STREAM_WORDS = {"Text": ("text", "logprobs"), "Image": ("step", "num_steps", "preview", "images")}
FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "Text": {
        "Parameters": ("top_p", "top_k", "repetition_penalty", "ignore_eos", "seed", "n", "logprobs"),
        "Answer": ("logprobs", "choices"),
        "Fusion": ("method", "density"),
        "Body": ("mode",),
    },
    "Image": {
        "Parameters": ("height", "width", "num_inference_steps", "guidance_scale", "seed", "scheduler", "previews"),
        "View": ("seed", "receipt"),
        "Fusion": ("method", "density", "every"),
        "Body": ("mode",),
    },
}
METHODS = {"Text": DELTA_METHODS, "Image": (*DELTA_METHODS, *STEPWISE_METHODS)}


def test_the_stream_and_the_fields_of_a_request_are_described(described: schemathesis.BaseSchema) -> None:
    document: Any = described.raw_schema
    schemas = document["components"]["schemas"]
    kind, other = ("Image", "Text") if "ImageBody" in schemas else ("Text", "Image")
    assert f"{other}Body" not in schemas, "the description is of what this server does"
    answer = document["paths"]["/generate"]["post"]["responses"]["200"]
    stream = answer["content"]["text/event-stream"]["schema"]["description"]
    assert all(word in stream for word in SHARED_WORDS + STREAM_WORDS[kind])
    assert ("image/png" in answer["content"]) == (kind == "Image")
    for schema, fields in FIELDS[kind].items():
        assert all(schemas[f"{kind}{schema}"]["properties"][field]["description"] for field in fields)
    method = schemas[f"{kind}Fusion"]["properties"]["method"]
    assert all(f"`{name}`" in method["description"] for name in METHODS[kind])
    assert set(method["enum"]) == set(METHODS[kind])


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "invalid"])
def test_no_request_breaks_the_service_or_its_description(
    mode: GenerationMode, described: schemathesis.BaseSchema
) -> None:
    for found in described.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(headers={"Authorization": "Bearer key"}, excluded_checks=NOT_CHECKED)

        with suppress(Unsatisfiable):  # an operation without parameters cannot be called wrongly
            check()
