"""The commands a stranger reads first do what the README says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loadtest.live_server import MODELS_DIR, REPOSITORY, LiveServer

README = (REPOSITORY / "README.md").read_text()


def curl_commands(port: int) -> list[str]:
    """Those that speak to the server on this port."""
    blocks = re.findall(r"^```\n(.*?)^```", README, flags=re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ") and f"localhost:{port}" in line]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_answer_without_an_error(tmp_path: Path) -> None:
    commands = curl_commands(8000)
    assert len(commands) >= 5
    with LiveServer(tmp_path / "data") as live:
        answers = [run(command.replace("localhost:8000", f"127.0.0.1:{live.port}")) for command in commands]
    uploaded, generated, streamed, listed, audited, _ = answers
    assert json.loads(uploaded)["name"] == "kjv"
    assert json.loads(generated)["receipt"]["adapters"][0]["name"] == "kjv"
    assert streamed.endswith("data: [DONE]\n\n")
    assert [adapter["name"] for adapter in json.loads(listed)["adapters"]] == ["kjv"]
    assert json.loads(audited)["ok"] is True


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_pictures_answer_without_an_error(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    model = ["--model", str(REPOSITORY / "examples/emoji/model"), "--dtype", "float32"]
    with LiveServer(tmp_path / "data", *model, redis="off") as live:
        here = f"127.0.0.1:{live.port}"
        commands = [command.replace("localhost:8001", here) for command in curl_commands(8001)]
        answers = [run(command.replace("/tmp/cat.png", str(picture))) for command in commands]  # noqa: S108
    *uploaded, drawn, streamed, composed = answers
    assert [json.loads(answer)["name"] for answer in uploaded] == ["ink", "cat"]
    assert drawn == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert '"preview"' in streamed
    assert streamed.endswith("data: [DONE]\n\n")
    assert json.loads(composed)["receipt"]["fusion"] == "switch"


def run(command: str) -> str:
    done = subprocess.run(
        ["curl", "--fail-with-body", *shlex.split(command)[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_make_target_the_readme_names_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_every_file_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (REPOSITORY / link).exists(), link


@pytest.mark.slow
def test_the_demo_tells_its_story_and_ends_with_0(tmp_path: Path) -> None:
    """Whatever is set for another server, or stands between this machine and the network."""
    elsewhere = {"SHIRA_API_KEYS": "secret:admin", "SHIRA_HOST": "0.0.0.0", "HTTP_PROXY": "http://127.0.0.1:1"}  # noqa: S104
    done = subprocess.run(
        [sys.executable, "-m", "server", "demo", "--sheet", str(tmp_path / "sheet.png")],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=600,
        env=os.environ | elsewhere | {"SHIRA_MODELS_DIR": str(MODELS_DIR)},
    )
    assert done.returncode == 0, done.stderr
    names = sorted(path.stem for path in (REPOSITORY / "examples").glob("*.safetensors"))
    assert names == ["kjv", "python", "wordnet"]
    titles = ["base", *names, "kjv + python", "base again"]
    assert re.findall(r"^── (.*) ──$", done.stdout, flags=re.M) == titles
    assert re.search(r"kjv ↔ python .*exchange", done.stdout)
    assert re.search(r"kjv ↔ wordnet .*overwrite", done.stdout)
    assert "identical to the first one" in done.stdout
    assert "The base draws the same again, bit for bit" in done.stdout
    assert f"The pictures: {tmp_path / 'sheet.png'}" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 300
