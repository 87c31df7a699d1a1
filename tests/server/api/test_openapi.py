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

from adapters_store.blend import DELTA_METHODS as METHODS
from server.api.app import build_api
from server.core.config import load_config
from tests.server.api.rig import make_services

NOT_CHECKED = [
    positive_data_acceptance,  # a schema cannot say "exactly one of prompt and messages", or what a valid adapter is
    allow_header_conformance,  # the framework lists the methods of one route, not of all on the path
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    settings_ = {"data_dir": tmp_path_factory.mktemp("openapi"), "redis": "off"}
    services, store, _ = make_services(load_config(settings_, {"SHIRA_API_KEYS": "key:admin"}))
    yield schemathesis.openapi.from_asgi("/openapi.json", build_api(services))
    store.close()


def test_the_stream_and_the_fields_of_a_request_are_described(described: schemathesis.BaseSchema) -> None:
    document: Any = described.raw_schema
    answer = document["paths"]["/generate"]["post"]["responses"]["200"]
    stream = answer["content"]["text/event-stream"]["schema"]["description"]
    assert all(
        word in stream for word in ("text", "finish_reason", "usage", "receipt", "index", "logprobs", "error", "[DONE]")
    )
    schemas = document["components"]["schemas"]
    described_fields = {
        "TextParameters": ("top_p", "top_k", "repetition_penalty", "ignore_eos", "seed", "n", "logprobs"),
        "TextAnswer": ("logprobs", "choices"),
        "TextFusion": ("method", "density"),
        "TextBody": ("mode",),
    }
    for schema, fields in described_fields.items():
        assert all(schemas[schema]["properties"][field]["description"] for field in fields)
    assert all(f"`{method}`" in schemas["TextFusion"]["properties"]["method"]["description"] for method in METHODS)


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
