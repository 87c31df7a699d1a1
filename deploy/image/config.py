"""What the instructions that touch no file say of the image: its environment, user, entry point, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import PurePosixPath

from deploy.image.dockerfile import Dockerfile, Instruction, NotUnderstood, Stage, pairs
from deploy.image.root import TOP
from deploy.image.variables import expand

# As python's official image sets it; what its programs stand on.
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    environment: Mapping[str, str] = field(default_factory=lambda: dict(BASE_ENVIRONMENT))
    arguments: Mapping[str, str] = field(default_factory=dict)  # of the stage that is built
    folder: PurePosixPath = TOP
    user: str = "0:0"
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    @property
    def variables(self) -> dict[str, str]:
        """What RUN and the references of later instructions see; ENV wins over ARG."""
        return {**self.arguments, **self.environment}

    @property
    def process(self) -> tuple[str, ...]:
        return self.entry_point + self.command


def start_of(stage: Stage, configs: Mapping[str, ImageConfig]) -> ImageConfig:
    """The configuration that ``FROM`` hands on: arguments end with their stage."""
    return replace(configs.get(stage.base, ImageConfig()), arguments={})


def after(config: ImageConfig, step: Instruction, given: Mapping[str, str]) -> ImageConfig:
    """``given``: build arguments and those before the first FROM, which an ``ARG`` of a stage takes up."""
    words = step.words
    match step.keyword:
        case "ARG":
            own = {name: given.get(name, value) for name, value in pairs(step, config.variables)}
            return replace(config, arguments={**config.arguments, **own})
        case "ENV":
            return replace(config, environment={**config.environment, **dict(pairs(step, config.variables))})
        case "LABEL":
            return replace(config, labels={**config.labels, **dict(pairs(step, config.variables))})
        case "WORKDIR":
            return replace(config, folder=config.folder / expand(words[0], config.variables))
        case "USER":
            return replace(config, user=expand(words[0], config.variables))
        case "VOLUME":
            return replace(config, volumes=config.volumes + words)
        case "EXPOSE":
            return replace(config, ports=config.ports + words)
        case "HEALTHCHECK":
            if words[0] != "CMD":
                raise NotUnderstood(f"line {step.line}: HEALTHCHECK: expected CMD, got {words[0]}")
            return replace(config, health=words[1:])
        case "ENTRYPOINT":
            return replace(config, entry_point=words, command=())
        case "CMD":
            return replace(config, command=words)
        case _:
            return config


def configs_of(file: Dockerfile, target: str, build_arguments: Mapping[str, str]) -> dict[str, ImageConfig]:
    """Of every stage that ``target`` needs, without executing anything."""
    given = {**file.arguments, **build_arguments}
    configs: dict[str, ImageConfig] = {}
    for stage in file.needed_for(target):
        steps = stage.instructions
        configs[stage.name] = reduce(lambda config, step: after(config, step, given), steps, start_of(stage, configs))
    return configs
