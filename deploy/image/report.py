"""The report of a check: what was executed, how long it took, how large it is, and what was not executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from deploy.image.build import Executed

LONGEST = 90  # characters of an instruction

INTRODUCTION = """# The image, checked without a container engine

Written by `make image-check` on {day}. The steps of the Dockerfile were executed as they stand there, as root, in a
mount namespace, on a machine without a container engine:

- **Clean roots.** `debootstrap --variant=minbase` of Debian bookworm with Debian's own Python 3.11 ({base} MiB) stands
  for `python:3.11-slim-bookworm`. Each stage is an overlay over it. `RUN` is chroot with the environment that `ARG` and
  `ENV` give; `COPY` takes only what `.dockerignore` lets through, `COPY --from` only what another stage's layers hold.
  The runtime stage starts from the clean root again.
- **Entry point.** `ENTRYPOINT` and `CMD` as the image's user, without capabilities and with no-new-privs, the first
  process of a namespace. Its root is an overlay without a writable layer, the volume a folder, `/tmp` a tmpfs with
  compose's options; the keys and the base are read-only mounts. Healthy is what the image's `HEALTHCHECK` command calls
  so there. The client is outside.
- **Differences.** The Python of the official image is built from source and may be a later 3.11; its pip is newer.
  Limits of memory, cores and processes, a container's network, BuildKit's cache and the pull of the base image were not
  exercised. Packages came from the registries that this machine is set up for; torch was {torch}.
- **Not executed.** What needs an NVIDIA GPU. The target `cuda` was built over the dependencies of `cpu`: its own step
  ran, but neither CUDA's build of torch nor a kernel.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A statement about the image or the container that held."""

    subject: str
    what: str
    seconds: float


def write_report(
    executed: Sequence[Executed],
    checked: Sequence[Checked],
    sizes: Sequence[tuple[str, int]],
    *,
    day: date,
    base_bytes: int,
    torch: str,
) -> str:
    """``sizes``: of each target's layers over the base image."""
    introduction = INTRODUCTION.format(day=day, base=base_bytes >> 20, torch=torch)
    steps = [
        (line.stage, str(line.step.line), f"`{shown(line)}`", _seconds(line.seconds), _size(line.num_bytes))
        for line in executed
    ]
    return "\n".join(
        [
            introduction,
            "## Steps\n",
            _table(("stage", "line", "instruction", "s", "added"), steps),
            "## Sizes, over the base image\n",
            _table(("target", "layers"), [(target, _size(size)) for target, size in sizes]),
            "## The image and its container\n",
            _table(("", "held", "s"), [(line.subject, line.what, _seconds(line.seconds)) for line in checked]),
        ]
    )


def shown(executed: Executed) -> str:
    step = executed.step
    flags = [f"--{name}={value}" for name, value in step.flags.items()]
    text = " ".join(" ".join([step.keyword, *flags, *step.words]).split()).replace("|", "\\|")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 0.05 else ""


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB" if num_bytes >= 2**10 else ""
