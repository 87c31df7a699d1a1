"""What requests to every kind of base share: each field with its form and limit. Nothing is coerced or clamped."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from adapters_store.alias import NAME_PATTERN
from adapters_store.blend import MAX_ABS_SCALE, MAX_ADAPTERS_PER_BLEND

SEEDS = 2**63

AdapterName = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$", description="The name of an uploaded adapter.")]
VersionText = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", description="The version of an adapter.")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class AdapterRef(Strict):
    """One adapter of a blend. Without ``version``, the one its name points at when the request is admitted."""

    name: AdapterName
    scale: float = Field(default=1.0, ge=-MAX_ABS_SCALE, le=MAX_ABS_SCALE, allow_inf_nan=False)
    version: VersionText | None = None


def form_of(value: object) -> str | None:
    """Which form a value has, so that a message speaks of that one alone. Angle brackets: no name of a field."""
    if isinstance(value, str):
        return "<text>"
    if isinstance(value, list):
        return "<list>"
    return "<object>" if isinstance(value, dict | BaseModel) else None


_NAME = Annotated[AdapterName, Tag("<text>")]
_REF = Annotated[AdapterRef, Tag("<object>")]
OneAdapter = Annotated[
    _NAME | _REF,
    Discriminator(form_of, custom_error_type="form", custom_error_message="Input should be a name or an object"),
]
AdapterList = Annotated[list[OneAdapter], Field(max_length=MAX_ADAPTERS_PER_BLEND)]
Adapters = Annotated[
    _NAME | _REF | Annotated[AdapterList, Tag("<list>")],
    Discriminator(
        form_of, custom_error_type="form", custom_error_message="Input should be a name, an object or a list"
    ),
]


FUSION_TEXT = (
    "`sum`: the scaled deltas added. `mean`: their sum over the sum of the scales. `ram`: the same, position by "
    "position, over the adapters that touch it. `ties`: each trimmed to `density`, then the mean of those that have "
    "the sign of the sum."
)
Density = Annotated[
    float | None,
    Field(
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="For `ties` alone: the share of its largest entries that each adapter keeps; by default all.",
    ),
]


def check_option(option: str, value: object, *, method: str, only_for: str) -> None:
    """An option of one way of fusing has no meaning for the others."""
    if value is not None and method != only_for:
        raise ValueError(f"{option} has no meaning for the method {method}, only for {only_for}")


class GenerationBody(Strict):
    """What every request for a generation may say."""

    adapter: Adapters | None = Field(default=None, description="Absent or an empty list: the base.")
    stream: bool = False
    deadline_ms: int | None = Field(default=None, ge=1, description="From arrival to the end of the answer.")

    @property
    def adapter_refs(self) -> list[AdapterRef]:
        given = self.adapter if isinstance(self.adapter, list) else [] if self.adapter is None else [self.adapter]
        return [AdapterRef(name=item) if isinstance(item, str) else item for item in given]
