"""Roots: folders that a process takes for the whole file system, stacked from layers as an engine does it.

Everything is mounted in a mount namespace of this process alone and ends with it. Needs root and Linux."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

CLONE_NEWNS = 0x00020000
TOP = PurePosixPath("/")

Layers = tuple[Path, ...]  # the top one first


class CommandFailed(Exception):
    """A step of the build, or of the check, exited with another code than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    words: tuple[str, ...]
    environment: Mapping[str, str]
    folder: PurePosixPath = TOP
    user: str = "0:0"


def enter_namespace() -> None:
    """From here on this thread's mounts, and those of the processes that it starts, are nobody else's."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"no mount namespace of its own: {os.strerror(number)}")
    _mount("--make-rprivate", "/")


@contextmanager
def writable(layers: Layers, top: Path) -> Iterator[Path]:
    """A root over ``layers`` whose changes go into ``top``."""
    work, root = top.with_name(top.name + ".work"), top.with_name(top.name + ".root")
    for folder in (top, work, root):
        folder.mkdir(exist_ok=True)
    options = f"lowerdir={_joined(layers)},upperdir={top},workdir={work}"
    with _mounted("-t", "overlay", "-o", options, "overlay", str(root)):
        yield root
    shutil.rmtree(work)
    root.rmdir()


@contextmanager
def read_only(layers: Layers, root: Path) -> Iterator[Path]:
    """A root in which nothing can be written, by whomever: an overlay without a top."""
    empty = root.with_name(root.name + ".empty")  # an overlay needs two
    for folder in (root, empty):
        folder.mkdir(exist_ok=True)
    with _mounted("-t", "overlay", "-o", f"lowerdir={_joined((*layers, empty))}", "overlay", str(root)):
        yield root
    for folder in (root, empty):
        folder.rmdir()


@contextmanager
def bound(paths: Mapping[Path, Path], *, options: str = "ro") -> Iterator[None]:
    """Puts files and folders of this machine (the values) at places in a root (the keys), and takes away again
    what had to be made for that."""
    with ExitStack() as stack:
        for target, source in paths.items():
            stack.enter_context(_place(target, is_folder=source.is_dir()))
            stack.enter_context(_mounted("--bind", "-o", options, str(source), str(target)))
        yield


@contextmanager
def tmpfs(targets: Mapping[Path, str]) -> Iterator[None]:
    """Places and options, beside those that an engine gives to --tmpfs."""
    with ExitStack() as stack:
        for target, options in targets.items():
            flags = f"noexec,nosuid,nodev,mode=1777,{options}"
            stack.enter_context(_mounted("-t", "tmpfs", "-o", flags, "tmpfs", str(target)))
        yield


@contextmanager
def proc(root: Path) -> Iterator[None]:
    with _mounted("-t", "proc", "proc", str(root / "proc")):
        yield


def chrooted(root: Path, command: Command) -> list[str]:
    """The command line that runs ``command`` in ``root``, without a capability unless it is root's."""
    uid, _, gid = command.user.partition(":")
    user = ["--reuid", uid, "--regid", gid or uid, "--clear-groups"]
    if uid != "0":
        user += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    environment = [f"{name}={value}" for name, value in command.environment.items()]
    chroot = shutil.which("chroot") or "chroot"
    inside = ["env", "--ignore-environment", f"--chdir={command.folder}", *environment, *command.words]
    return [chroot, str(root), "/usr/bin/setpriv", *user, "/usr/bin/" + inside[0], *inside[1:]]


def run_in(root: Path, command: Command, log: IO[bytes]) -> None:
    """Raises CommandFailed with the end of what it printed."""
    start = log.tell()
    done = subprocess.run(
        chrooted(root, command), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode != 0:
        log.flush()
        printed = Path(log.name).read_bytes()[start:].decode(errors="replace")
        raise CommandFailed(f"exit code {done.returncode}: {' '.join(command.words)[:200]}\n{printed[-3000:]}")


def size_bytes(folder: Path) -> int:
    """Of the files in it, links not followed."""
    return sum((Path(path) / name).lstat().st_size for path, _, names in os.walk(folder) for name in names)


@contextmanager
def _place(target: Path, *, is_folder: bool) -> Iterator[None]:
    missing = [path for path in (target, *target.parents) if not path.exists()]
    for path in reversed(missing):
        if path == target and not is_folder:
            path.touch()
        else:
            path.mkdir()
    yield
    for path in missing:
        if path == target and not is_folder:
            path.unlink()
        else:
            path.rmdir()


@contextmanager
def _mounted(*words: str) -> Iterator[None]:
    _mount(*words)
    try:
        yield
    finally:
        subprocess.run(["umount", "--recursive", words[-1]], check=True)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _joined(layers: Iterable[Path]) -> str:
    return ":".join(map(str, layers))
