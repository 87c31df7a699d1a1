"""Asks a running server the same questions of the base, of each adapter here and of pairs; prints Markdown.

shira serve --data-dir /tmp/shira-compare &
python examples/compare.py http://127.0.0.1:8000
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import httpx

PROMPTS = ("In the beginning of the year", "The king said to his servant,", "def parse(", "lighthouse (noun):")
BLENDS: dict[str, list[str]] = {
    "base": [],
    "`kjv`": ["kjv"],
    "`python`": ["python"],
    "`wordnet`": ["wordnet"],
    "`kjv` + `python`": ["kjv", "python"],
    "`kjv` + `wordnet`": ["kjv", "wordnet"],
}
PARAMETERS = {"max_new_tokens": 48, "temperature": 0.0, "repetition_penalty": 1.2}


def main(url: str) -> None:
    with httpx.Client(base_url=url, timeout=300.0) as client:
        for name in ("kjv", "python", "wordnet"):
            content = (Path(__file__).parent / f"{name}.safetensors").read_bytes()
            checked(client.post("/adapters", data={"name": name}, files={"file": content}))
        for prompt in PROMPTS:
            print(f"**{prompt}** …\n")
            for title, adapters in BLENDS.items():
                print(f"- {title}: {quoted(generate(client, prompt, adapters))}")
            print()


def generate(client: httpx.Client, prompt: str, adapters: list[str]) -> str:
    body = {
        "prompt": prompt,
        "adapter": adapters,
        "parameters": PARAMETERS,
    }
    answer = checked(client.post("/generate", json=body))
    applied = sorted(adapter["name"] for adapter in answer["receipt"]["adapters"])
    if applied != sorted(adapters):
        raise SystemExit(f"asked for {adapters}, the receipt says {applied}")
    return str(answer["text"])


def quoted(text: str) -> str:
    """On one line, line breaks visible, fit to stand between Markdown's backticks."""
    return "```` " + text.strip().replace("\n", "⏎") + " ````"


def checked(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise SystemExit(f"{response.request.method} {response.request.url.path}: {response.text}")
    return dict(response.json())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "http://127.0.0.1:8000")
