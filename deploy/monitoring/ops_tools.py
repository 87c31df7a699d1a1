"""Prometheus and promtool for the checks: those on PATH, else Debian's package, unpacked without root.

``python -m deploy.monitoring.ops_tools`` fetches what is missing and says where it is. Packages come from where the
machine's own apt takes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".cache" / "ops"
PACKAGE = "prometheus"  # holds promtool as well


class ToolsUnavailable(Exception):
    """Neither on PATH nor to be had from apt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    prometheus: Path
    promtool: Path


def find_tools(folder: Path = FOLDER) -> Tools | None:
    """On PATH, or fetched before; None if neither."""
    search = (None, str(folder / "root" / "usr" / "bin"))
    found = ((shutil.which("prometheus", path=path), shutil.which("promtool", path=path)) for path in search)
    pairs = (Tools(prometheus=Path(server), promtool=Path(tool)) for server, tool in found if server and tool)
    return next(pairs, None)


def fetch_tools(folder: Path = FOLDER) -> Tools:
    """Finds them or fetches them. Raises ToolsUnavailable, saying what to do."""
    tools = find_tools(folder)
    if tools is not None:
        return tools
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ToolsUnavailable("put prometheus and promtool on PATH: this machine has no apt-get to fetch them with")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        package = _download(Path(scratch))
        unpacked = Path(scratch) / "root"
        _run("dpkg-deb", "--extract", str(package), str(unpacked), cwd=folder)
        shutil.rmtree(folder / "root", ignore_errors=True)
        unpacked.rename(folder / "root")
    tools = find_tools(folder)
    if tools is None:
        raise ToolsUnavailable(f"the package {PACKAGE} that apt gave holds no prometheus and promtool")
    return tools


def _download(folder: Path) -> Path:
    """By the machine's package lists; where it has none, by lists of our own."""
    try:
        return _download_by([], folder)
    except ToolsUnavailable:
        own = _own_lists(folder / "apt")
        _run("apt-get", *own, "--quiet", "update", cwd=folder)
        return _download_by(own, folder)


def _download_by(options: list[str], folder: Path) -> Path:
    _run("apt-get", *options, "--quiet", "-o", "APT::Sandbox::User=", "download", PACKAGE, cwd=folder)
    [package] = folder.glob(f"{PACKAGE}_*.deb")
    return package


def _own_lists(folder: Path) -> list[str]:
    """Options for apt that need no root: what it downloads and locks lies here, what is installed it still knows."""
    for part in ("lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip()[-500:]
        raise ToolsUnavailable(f"{command[0]}: {told}\ncould not fetch {PACKAGE}: put prometheus and promtool on PATH")


def main() -> None:
    try:
        tools = fetch_tools()
    except ToolsUnavailable as error:
        sys.exit(str(error))
    print(tools.prometheus, tools.promtool, sep="\n")


if __name__ == "__main__":
    main()
