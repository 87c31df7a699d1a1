"""The entry point of an image in a root that nothing can write, as an engine runs it for compose.yaml."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.image.build import Built
from deploy.image.root import Command, CommandFailed, bound, chrooted, read_only, tmpfs

HEALTH_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    root: Path
    command: Command  # its environment and user are those of the health check as well
    health: tuple[str, ...]
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_healthy(self, deadline_s: float) -> float:
        """By the image's HEALTHCHECK; the seconds that passed. Raises CommandFailed."""
        start = time.monotonic()
        while self.process.poll() is None and time.monotonic() - start < deadline_s:
            if self._is_healthy():
                return time.monotonic() - start
            time.sleep(HEALTH_INTERVAL_S)
        raise CommandFailed(f"not healthy after {time.monotonic() - start:.0f} s:\n{self.log.read_text()[-3000:]}")

    def stop(self, grace_s: float) -> tuple[int, float]:
        """SIGTERM to its first process, as an engine sends it: the exit code and the seconds it took."""
        start = time.monotonic()
        self._send(signal.SIGTERM)
        try:
            return self.process.wait(grace_s), time.monotonic() - start
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"still running {grace_s:.0f} s after SIGTERM") from None

    def is_writable(self, path: str) -> bool:
        """For root, whom no permission stops."""
        try:
            (self.root / path.lstrip("/") / ".written").touch()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        if self.process.poll() is None:
            self._send(signal.SIGKILL)
            self.process.wait(60)

    def _is_healthy(self) -> bool:
        check = replace(self.command, words=self.health)
        return subprocess.run(chrooted(self.root, check), capture_output=True, check=False).returncode == 0

    def _send(self, number: signal.Signals) -> None:
        """To the process with id 1 in its namespace; unshare, which waits for it, hands nothing on."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[0]), number)


@contextmanager
def running(
    built: Built,
    folder: Path,
    *,
    mounts: Mapping[str, Path],
    temporary: Mapping[str, str],
    environment: Mapping[str, str],
) -> Iterator[Container]:
    """``mounts``: read-only, by their place inside. The image's volumes are folders of ``folder``; ``temporary``: tmpfs
    and their options. Ids of processes are its own; the network is this machine's."""
    config = built.config
    root, log = folder / "root", folder / "container.log"
    places = folder / "places"  # an engine makes the mount points that an image lacks
    for place, source in mounts.items():
        _make_place(places / place.lstrip("/"), is_folder=source.is_dir())
    uid, gid = map(int, config.user.split(":"))
    volumes = {volume: folder / f"volume{number}" for number, volume in enumerate(config.volumes)}
    for path in volumes.values():
        path.mkdir()
        os.chown(path, uid, gid)
    command = Command(
        words=config.process,
        environment={**config.environment, **environment},
        folder=config.folder,
        user=config.user,
    )
    with (
        read_only((places, *built.layers), root),
        bound({root / place.lstrip("/"): source for place, source in mounts.items()}),
        bound({root / place.lstrip("/"): path for place, path in volumes.items()}, options="rw"),
        tmpfs({root / place.lstrip("/"): options for place, options in temporary.items()}),
        log.open("wb") as output,
    ):
        isolate = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={root / 'proc'}"]
        process = subprocess.Popen(
            [*isolate, *chrooted(root, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        container = Container(root=root, command=command, health=config.health, process=process, log=log)
        try:
            yield container
        finally:
            container.kill()


def _make_place(path: Path, *, is_folder: bool) -> None:
    if is_folder:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
