"""Executes the stages of a Dockerfile, each in a root of its own over the clean one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.image.clean_root import make_clean_root
from deploy.image.config import ImageConfig, after, start_of
from deploy.image.context import copy_sent
from deploy.image.dockerfile import Dockerfile, Instruction, Stage
from deploy.image.host import HostSettings
from deploy.image.root import Command, Layers, bound, proc, read_only, run_in, size_bytes, writable
from deploy.image.variables import expand


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    stage: str
    step: Instruction
    seconds: float
    num_bytes: int  # that the step added to its layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    layers: Layers
    config: ImageConfig

    @property
    def num_bytes(self) -> int:
        """Over the base image."""
        return sum(size_bytes(layer) for layer in self.layers[:-1])


@dataclass(slots=True, kw_only=True)
class Build:
    """``folder`` takes roots and logs, several GB. ``tell`` hears of each step as it ends."""

    repository: Path
    folder: Path
    file: Dockerfile
    arguments: Mapping[str, str]
    host: HostSettings
    tell: Callable[[Executed], None]
    built: dict[str, Built] = field(default_factory=dict)

    def make_base(self) -> int:
        """Its bytes."""
        with self._log("base").open("ab") as log:
            make_clean_root(self._base, self.host, log)
        return size_bytes(self._base)

    def run(self, target: str) -> Built:
        """Every stage that ``target`` needs and that has not been built yet. Raises CommandFailed."""
        for stage in self.file.needed_for(target):
            if stage.name not in self.built:
                self.built[stage.name] = self._build(stage)
        return self.built[target]

    def _build(self, stage: Stage) -> Built:
        parent = self.built.get(stage.base)
        layers = parent.layers if parent else (self._base,)
        config = start_of(stage, {name: built.config for name, built in self.built.items()})
        if not stage.instructions:
            return Built(layers=layers, config=config)
        given = {**self.file.arguments, **self.arguments}
        top = self.folder / stage.name
        with writable(layers, top) as root:
            before = 0
            for step in stage.instructions:
                start = time.monotonic()
                config = after(config, step, given)
                self._execute(root, step, config, stage.name)
                seconds, now = time.monotonic() - start, size_bytes(top)
                self.tell(Executed(stage=stage.name, step=step, seconds=seconds, num_bytes=now - before))
                before = now
        return Built(layers=(top, *layers), config=config)

    def _execute(self, root: Path, step: Instruction, config: ImageConfig, stage: str) -> None:
        match step.keyword:
            case "RUN":
                self._run(root, step.words[0], config, stage)
            case "WORKDIR":
                _inside(root, config, "").mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = (expand(word, config.variables) for word in step.words)
                into = _inside(root, config, target)
                if origin := step.flags.get("from"):
                    self._copy_built(self.built[origin], sources, into)
                else:
                    is_folder = target.endswith("/") or into.is_dir()
                    copy_sent(self.repository, sources, into, is_folder=is_folder)

    def _run(self, root: Path, line: str, config: ImageConfig, stage: str) -> None:
        command = Command(
            words=("/bin/sh", "-c", line),
            environment={"HOME": "/root", **config.variables, **self.host.environment},
            folder=config.folder,
            user=config.user,
        )
        with bound(self.host.bindings(root)), proc(root), self._log(stage).open("ab") as log:
            log.write(f"\n$ {line}\n".encode())
            log.flush()
            run_in(root, command, log)

    def _copy_built(self, origin: Built, sources: list[str], into: Path) -> None:
        with read_only(origin.layers, self.folder / "copied-from") as root:
            for source in sources:
                path = root / source.lstrip("/")
                into.parent.mkdir(parents=True, exist_ok=True)
                content = [f"{path}/.", f"{into}/"] if path.is_dir() else [str(path), str(into)]
                if path.is_dir():
                    into.mkdir(exist_ok=True)
                subprocess.run(["cp", "--archive", "--no-preserve=ownership", *content], check=True)

    @property
    def _base(self) -> Path:
        return self.folder / "base"

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def _inside(root: Path, config: ImageConfig, path: str) -> Path:
    return root / str(config.folder / path).lstrip("/")
