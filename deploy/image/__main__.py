"""``python -m deploy.image``: exit code 0 if every step held, 1 if one did not, 2 if this machine cannot check it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from deploy.image.build import Build, Executed
from deploy.image.check import Check, CheckFailed
from deploy.image.context import MissingSource
from deploy.image.dockerfile import NotUnderstood, read_dockerfile
from deploy.image.host import settings_of_this_host
from deploy.image.report import Checked, shown, write_report
from deploy.image.root import CommandFailed, enter_namespace
from deploy.image.visit import Base, VisitFailed
from server.runners.default_model import ensure_default_model

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "docs" / "image-check.md"
PROGRAMS = ("debootstrap", "chroot", "unshare", "mount")
NEEDED_BYTES = 8 * 2**30
FAILURES = (
    CheckFailed, CommandFailed, MissingSource, NotUnderstood, VisitFailed, OSError, subprocess.SubprocessError,
)  # fmt: skip


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="image-check-") as folder:
        if obstacle := what_is_missing(Path(folder)):
            print(f"image-check: {obstacle}", file=sys.stderr)
            return 2
        enter_namespace()
        os.umask(0o022)  # what is made here is read by the image's user
        try:
            REPORT.write_text(check(Path(folder)))
        except FAILURES as error:
            print(f"FAILED  {error}", file=sys.stderr)
            return 1
    print(f"report: {REPORT.relative_to(REPOSITORY)}")
    return 0


def what_is_missing(folder: Path) -> str | None:
    if os.geteuid() != 0:
        return "needs root, for chroot and mounts: sudo make image-check"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"needs {', '.join(missing)}: apt-get install debootstrap util-linux"
    if (free := shutil.disk_usage(folder).free) < NEEDED_BYTES:
        return f"needs {NEEDED_BYTES >> 30} GiB in {folder.parent}, which has {free >> 30}; TMPDIR names another folder"
    return None


def check(folder: Path) -> str:
    """The report. Raises one of FAILURES at the first step that does not hold."""
    executed: list[Executed] = []

    def tell_step(step: Executed) -> None:
        executed.append(step)
        print(f"ok {step.seconds:7.1f} s {step.num_bytes / 2**20:8.1f} MiB  {step.stage}: {shown(step)}", flush=True)

    def tell_checked(line: Checked) -> None:
        print(f"ok {line.seconds:7.1f} s               {line.subject}: {line.what}", flush=True)

    build = Build(
        repository=REPOSITORY,
        folder=folder,
        file=read_dockerfile(REPOSITORY / "Dockerfile"),
        arguments={},
        host=settings_of_this_host(),
        tell=tell_step,
    )
    base_bytes = build.make_base()
    print(f"ok clean root, {base_bytes >> 20} MiB", flush=True)
    cpu, cuda = build.run("cpu"), build.run("cuda")
    sizes = [("cpu", cpu.num_bytes), ("cuda, with the dependencies of cpu", cuda.num_bytes)]
    checking = Check(build=build, tell=tell_checked)
    torch = checking.installed(cpu)
    for base in bases():
        checking.runs(cpu, base)
    day = datetime.now(tz=UTC).date()
    return write_report(executed, checking.checked, sizes, day=day, base_bytes=base_bytes, torch=torch)


def bases() -> list[Base]:
    examples = REPOSITORY / "examples"
    return [
        Base(
            name="text",
            checkpoint=ensure_default_model(REPOSITORY / ".cache" / "models", source="package"),
            adapter=examples / "kjv.safetensors",
            settings={},
            request={"prompt": "In the beginning", "parameters": {"max_new_tokens": 16, "temperature": 0}},
        ),
        Base(
            name="pictures",
            checkpoint=examples / "emoji" / "model",
            adapter=examples / "emoji" / "cat.safetensors",
            settings={"SHIRA_DTYPE": "float32"},
            request={"prompt": "grinning face", "parameters": {"num_inference_steps": 8, "seed": 1}},
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
