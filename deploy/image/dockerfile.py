"""A Dockerfile as stages of instructions, read by BuildKit's own parser; what the executor cannot do is refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dockerfile

from deploy.image.variables import expand

FLAGS: Mapping[str, frozenset[str]] = {
    "COPY": frozenset({"from"}),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "start-interval", "retries"}),
} | dict.fromkeys(
    ("ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "USER", "VOLUME", "WORKDIR"), frozenset()
)
EXEC_FORM = frozenset({"CMD", "ENTRYPOINT", "HEALTHCHECK"})


class NotUnderstood(Exception):
    """The Dockerfile asks for what this reader or executor does not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    line: int
    keyword: str
    flags: Mapping[str, str]
    words: tuple[str, ...]  # as written, before variables; of RUN one, its command line


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    name: str
    base: str  # another stage's name, or an image
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dockerfile:
    arguments: Mapping[str, str]  # ARGs before the first FROM, and their defaults
    stages: Mapping[str, Stage]  # in the file's order

    def needed_for(self, target: str) -> list[Stage]:
        """The stages that a build of ``target`` runs, each after those it stands on or copies from."""
        if target not in self.stages:
            raise NotUnderstood(f"target: expected one of {', '.join(self.stages)}, got {target}")
        needed = {target}
        for stage in reversed(list(self.stages.values())):
            if stage.name in needed:
                needed |= {stage.base} | {flag for step in stage.instructions if (flag := step.flags.get("from"))}
        return [stage for stage in self.stages.values() if stage.name in needed]


def read_dockerfile(path: Path) -> Dockerfile:
    """Raises NotUnderstood."""
    try:
        commands = dockerfile.parse_file(str(path))
    except dockerfile.ParseError as error:
        raise NotUnderstood(f"{path.name}: {error}") from error
    steps = [_instruction(command) for command in commands]
    arguments: dict[str, str] = {}
    stages: dict[str, list[Instruction]] = {}
    bases: dict[str, str] = {}
    for step in steps:
        match step.keyword:
            case "FROM":
                name, bases[name] = _from(step, arguments)
                stages[name] = []
            case "ARG" if not stages:
                arguments |= dict(pairs(step, arguments))
            case _ if not stages:
                raise NotUnderstood(f"line {step.line}: expected FROM or ARG first, got {step.keyword}")
            case _:
                stages[next(reversed(stages))].append(step)
    return Dockerfile(
        arguments=arguments,
        stages={name: Stage(name=name, base=bases[name], instructions=tuple(steps)) for name, steps in stages.items()},
    )


def pairs(step: Instruction, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names and values of an ARG, ENV or LABEL, expanded. An ARG without a value takes the variable of its name."""
    if step.keyword == "ARG":
        for word in step.words:
            name, has_value, value = word.partition("=")
            yield name, expand(unquote(value), variables) if has_value else variables.get(name, "")
    else:
        for name, value in zip(step.words[::2], step.words[1::2], strict=True):
            yield name, expand(unquote(value), variables)


def unquote(word: str) -> str:
    return "".join(shlex.split(word))


def _instruction(command: Any) -> Instruction:
    keyword = command.cmd.upper()
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in command.flags)
    if keyword not in FLAGS or command.sub_cmd or command.heredocs:
        raise NotUnderstood(f"line {command.start_line}: {keyword}: not an instruction that this check executes")
    if unknown := flags.keys() - FLAGS[keyword]:
        raise NotUnderstood(f"line {command.start_line}: {keyword}: --{min(unknown)} is not a flag that it executes")
    if command.json != (keyword in EXEC_FORM):
        expected = "a JSON array" if keyword in EXEC_FORM else "words"
        raise NotUnderstood(f"line {command.start_line}: {keyword}: expected {expected}, got {command.original}")
    return Instruction(line=command.start_line, keyword=keyword, flags=flags, words=tuple(command.value))


def _from(step: Instruction, arguments: Mapping[str, str]) -> tuple[str, str]:
    match step.words:
        case (base, as_, name) if as_.upper() == "AS":
            return name, expand(base, arguments)
        case _:
            raise NotUnderstood(f"line {step.line}: expected FROM image AS name, got {' '.join(step.words)}")
