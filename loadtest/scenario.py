"""What a load test is: a TOML file, checked before anything is started.

Arrivals and popularity follow the synthetic workload of S-LoRA (arXiv 2311.03285, section 7.1): each adapter's requests
are a Gamma process of its own with coefficient of variation ``cv``, and the adapters' rates follow a power law with
exponent ``alpha``; lengths lie between two bounds.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from server.core.errors import ServerError

Model = TypeVar("Model", bound=BaseModel)

MAX_DAY_PEAK = 1.2
ServerName = Literal["text", "pictures"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ScenarioRejected(ServerError):
    """A scenario, trace or SLO file is wrong: names the file, the field, what was expected and what was found."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(Part):
    """Whole numbers between ``low`` and ``high``, both included: uniform, or with a uniform logarithm."""

    low: Count
    high: Count
    law: Literal["uniform", "log-uniform"] = "uniform"

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"expected low to be at most high, got {self.low} and {self.high}")
        return self


class Rate(Part):
    """Arrivals of all kinds together. ``day``: a day's curve compressed into the run, ``peak`` times the mean in its
    middle, as much below the mean at both ends."""

    mean_per_s: float = Field(gt=0)
    curve: Literal["flat", "day"] = "flat"
    peak: float = Field(default=MAX_DAY_PEAK, ge=1, le=MAX_DAY_PEAK)
    cv: float = Field(default=1.0, gt=0, le=10, description="1 is a Poisson process, above it requests come in bursts.")


class Mix(Part):
    """Relative shares of the kinds."""

    text: float = Field(default=0, ge=0)
    image: float = Field(default=0, ge=0)
    upload: float = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.text + self.image + self.upload <= 0:
            raise ValueError("expected one share above 0, got none")
        return self


class Population(Part):
    """Who is asked for, and how. ``blend_share`` asks for two adapters at once, ``stream_share`` reads as it comes,
    ``hang_up_share`` goes away before the end. ``num_moving`` of the adapters, the most popular ones, have two
    versions, between which uploads of the form ``move`` switch them."""

    num_adapters: int = Field(ge=0)
    alpha: float = Field(default=1.0, ge=0, le=5)
    sparsity: float = Field(default=0.01, gt=0, le=0.1)
    num_moving: int = Field(default=0, ge=0)
    base_share: Share = 0.0
    blend_share: Share = 0.0
    stream_share: Share = 1.0
    hang_up_share: Share = 0.0

    @model_validator(mode="after")
    def _enough_adapters(self) -> Self:
        if self.num_moving > self.num_adapters:
            raise ValueError(f"num_moving: expected at most num_adapters, {self.num_adapters}, got {self.num_moving}")
        if self.blend_share and self.num_adapters < 2:
            raise ValueError(f"blend_share: expected num_adapters of 2 or more, got {self.num_adapters}")
        return self


class Texts(Population):
    prompt_tokens: Span
    output_tokens: Span


class Images(Population):
    num_steps: Span
    sides: tuple[Count, ...] = Field(default=(64,), min_length=1)


class Forms(Part):
    """Relative shares of what uploads do: the whole life of an adapter in either file form, a file that must be
    rejected, moving the name of a popular adapter to its other version."""

    native: float = Field(default=1, ge=0)
    peft: float = Field(default=0, ge=0)
    hostile: float = Field(default=0, ge=0)
    move: float = Field(default=0, ge=0)


class Uploads(Part):
    """``num_files`` different adapters are made before the run, each in both forms. ``picture_share`` go to the picture
    server."""

    forms: Forms = Forms()
    num_files: Count = 8
    rank: Count = Field(default=1, description="Of PEFT's SHiRA: r(m + n) entries of every m×n weight, in either form.")
    picture_share: Share = 0.0


class ServerPart(Part):
    """``room_for``: the staged adapters that fit the device budget, the others wait on lower tiers. ``settings``: of
    ``shira serve``."""

    model: str
    room_for: Count | None = None
    settings: dict[str, str | int | float | bool] = {}


class Scenario(Part):
    name: str
    seed: int = 0
    duration_s: float = Field(gt=0, le=24 * 3600)
    rate: Rate
    mix: Mix
    text: Texts | None = None
    image: Images | None = None
    upload: Uploads | None = None
    servers: dict[ServerName, ServerPart] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for kind, server in (("text", "text"), ("image", "pictures"), ("upload", None)):
            if not getattr(self.mix, kind):
                continue
            if getattr(self, kind) is None:
                raise ValueError(f"{kind}: expected a table, because mix.{kind} is above 0, got none")
            if server is not None and server not in self.servers:
                raise ValueError(f"servers.{server}: expected a table, because mix.{kind} is above 0, got none")
        if self.upload is not None:
            self._check_uploads(self.upload)
        return self

    def _check_uploads(self, upload: Uploads) -> None:
        wanted: dict[ServerName, bool] = {"text": upload.picture_share < 1, "pictures": upload.picture_share > 0}
        for server, is_wanted in wanted.items():
            if is_wanted and server not in self.servers:
                raise ValueError(f"servers.{server}: expected a table, because of upload.picture_share, got none")
            if is_wanted and upload.forms.move and not self.num_moving(server):
                kind = "text" if server == "text" else "image"
                raise ValueError(f"{kind}.num_moving: expected 1 or more, because of upload.forms.move, got 0")

    def population(self, server: ServerName) -> Population | None:
        return self.text if server == "text" else self.image

    def num_moving(self, server: ServerName) -> int:
        population = self.population(server)
        return 0 if population is None else population.num_moving

    def changed(
        self, *, rate_per_s: float | None = None, duration_s: float | None = None, seed: int | None = None
    ) -> Self:
        """None leaves a field as it is."""
        fields: dict[str, Any] = {}
        if rate_per_s is not None:
            fields["rate"] = self.rate.model_copy(update={"mean_per_s": rate_per_s})
        if duration_s is not None:
            fields["duration_s"] = duration_s
        if seed is not None:
            fields["seed"] = seed
        return self.model_copy(update=fields)


def load_scenario(path: Path) -> Scenario:
    """Raises ScenarioRejected."""
    return read_toml(path, Scenario)


def read_toml(path: Path, model: type[Model]) -> Model:
    """Raises ScenarioRejected, with every field that is wrong."""
    try:
        return model.model_validate(tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScenarioRejected(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise ScenarioRejected("\n".join(f"{path}: {problem}" for problem in problems(error))) from error


def problems(error: ValidationError) -> list[str]:
    """One line for each field: its name, what was expected, what was found."""
    return [f"{'.'.join(map(str, item['loc'])) or 'file'}: {_problem(item)}" for item in error.errors()]


def _problem(item: Any) -> str:
    match item["type"]:
        case "missing":
            return "expected a value, got none"
        case "extra_forbidden":
            return f"expected no such field, got {item['input']!r}"
        case "value_error":
            return str(item["msg"]).removeprefix("Value error, ")
        case _:
            return f"expected {str(item['msg']).removeprefix('Input should be ')}, got {item['input']!r}"
