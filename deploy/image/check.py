"""What must hold of an image that was built: the packages in it, and the container that it becomes."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.image.build import Build, Built
from deploy.image.compose_options import stop_grace_s, temporary_folders
from deploy.image.container import running
from deploy.image.report import Checked
from deploy.image.root import Command, read_only, run_in
from deploy.image.visit import API_KEYS_PLACE, Base, make_api_keys, visit
from server.processes import free_port

HEALTHY_WITHIN_S = 300.0
MODEL_PLACE = "/models/base"
NOT_PINNED = frozenset({"pip", "shira-server"})  # the base image's, and what is built
NOT_WRITABLE = ("/", "/opt/app", "/opt/shira", "/etc", "/models/base")


class CheckFailed(Exception):
    """The image is not what it must be."""


@dataclass(slots=True, kw_only=True)
class Check:
    build: Build
    tell: Callable[[Checked], None]
    checked: list[Checked] = field(default_factory=list)

    def installed(self, built: Built) -> str:
        """Every package has the version that constraints.txt names; nothing is missing. The version of torch."""
        with self._noting("image") as note, read_only(built.layers, self.build.folder / "listed") as root:
            listed = self._printed(root, built, "python", "-m", "pip", "list", "--format=json")
            self._printed(root, built, "python", "-m", "pip", "check")
            packages = {entry["name"]: entry["version"] for entry in json.loads(listed)}
            expected = pinned((self.build.repository / "constraints.txt").read_text())
            for name, version in packages.items():
                if normal(name) not in NOT_PINNED and expected.get(normal(name)) != version.partition("+")[0]:
                    raise CheckFailed(f"{name}: expected {expected.get(normal(name), 'no package')}, got {version}")
            note(f"{len(packages)} packages, each as constraints.txt has it, no dependency missing")
        return str(packages["torch"])

    def runs(self, built: Built, base: Base) -> None:
        folder = self.build.folder / f"container-{base.name}"
        folder.mkdir()
        keys = folder / "api-keys.toml"
        secret, port = make_api_keys(keys), free_port()
        environment = {
            "SHIRA_PORT": str(port),
            "SHIRA_API_KEYS_FILE": API_KEYS_PLACE,
            "SHIRA_MODEL": MODEL_PLACE,
            "SHIRA_THREADS": "1",
            **base.settings,
        }
        model = folder / "model"
        shutil.copytree(base.checkpoint, model, copy_function=shutil.copyfile)  # readable to every user
        mounts = {API_KEYS_PLACE: keys, MODEL_PLACE: model}
        with running(built, folder, mounts=mounts, temporary=temporary_folders(), environment=environment) as container:
            with self._noting(base.name) as note:
                container.wait_until_healthy(HEALTHY_WITHIN_S)
                note("started as the image's user, healthy by HEALTHCHECK")
            with self._noting(base.name) as note:
                written = [path for path in NOT_WRITABLE if container.is_writable(path)]
                if written:
                    raise CheckFailed(f"root: expected to be read-only, could write in {', '.join(written)}")
                note("not even root can write outside the volume and /tmp")
            answers = visit(f"http://127.0.0.1:{port}", secret, base)
            while True:
                with self._noting(base.name) as note:
                    told = next(answers, None)
                    if told is None:
                        break
                    note(told)
            with self._noting(base.name) as note:
                code, _ = container.stop(stop_grace_s())
                if code != 0:
                    raise CheckFailed(f"exit code: expected 0, got {code}")
                note(f"SIGTERM: exit code 0, within the {stop_grace_s():.0f} s that compose grants")

    def _printed(self, root: Path, built: Built, *words: str) -> str:
        config = built.config
        command = Command(words=words, environment=config.environment, folder=config.folder, user=config.user)
        with (self.build.folder / "printed.log").open("w+b") as log:
            run_in(root, command, log)
            log.seek(0)
            return log.read().decode()

    @contextmanager
    def _noting(self, subject: str) -> Iterator[Callable[[str], None]]:
        start = time.monotonic()

        def note(what: str) -> None:
            line = Checked(subject=subject, what=what, seconds=time.monotonic() - start)
            self.checked.append(line)
            self.tell(line)

        yield note


def pinned(constraints: str) -> Mapping[str, str]:
    lines = (line.partition("==") for line in constraints.splitlines() if "==" in line)
    return {normal(name): version.strip() for name, _, version in lines}


def normal(name: str) -> str:
    """As PEP 503 compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()
