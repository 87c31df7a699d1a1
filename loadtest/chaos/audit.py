"""The laws, checked on a running server while nothing else asks it anything."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.chaos.alias_book import ABSENT, AliasBook, AliasState
from loadtest.chaos.bases import Base, Upload
from loadtest.live_server import LiveServer

LIGHT_SAMPLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the server was before the fault: the digest of its weights, and its answers to seeded requests."""

    digest: str
    answers: Mapping[str, str]


def describe(live: LiveServer, base: Base, stable: Sequence[str]) -> Before:
    """Raises HTTPStatusError when a request fails, or the audit finds the base changed."""
    digest = live.client.post("/admin/verify").raise_for_status().json()["digest"]
    blends = [[], *([name] for name in stable), list(stable)]
    return Before(digest=digest, answers={"+".join(blend) or "base": _answer(live, base, blend) for blend in blends})


def _answer(live: LiveServer, base: Base, blend: list[str]) -> str:
    return base.answered(live.client.post("/generate", json=base.body(blend)).raise_for_status().json())


def differences(before: Before, now: Before) -> list[str]:
    problems = []
    if now.digest != before.digest:
        problems.append(f"the base's digest was {before.digest} and is {now.digest}")
    problems += [
        f"the seeded answer of {blend} changed"
        for blend, answer in before.answers.items()
        if now.answers[blend] != answer
    ]
    return problems


def missing(
    live: LiveServer, book: AliasBook, uploads: Sequence[Upload], *, dice: random.Random | None
) -> dict[str, str]:
    """What was acknowledged and is not so: of each such thing a sentence. Settles in the book what was cut. ``dice``:
    only a few names are downloaded, instead of every version of all."""
    problems = {}
    states = {name: _observed(live, name) for name in book.possible}
    for name, state in states.items():
        if not book.observe(name, state):
            problems[name] = f"{name}: expected one of {sorted(map(str, book.states(name)))}, found {state}"
    listed = dict(_listed(live))
    live_names = {name: state.version for name, state in states.items() if state != ABSENT}
    if listed != live_names:
        problems["the list"] = f"the list says {listed}, the names one by one {live_names}"
    contents = {upload.version: upload for upload in uploads}
    chosen = sorted(live_names) if dice is None else dice.sample(sorted(live_names), min(LIGHT_SAMPLE, len(live_names)))
    for name in chosen:
        for version in states[name].history:
            what = f"{name} at {version}"
            response = live.client.get(f"/adapters/{name}/content", params={"version": version})
            if response.status_code != httpx.codes.OK:
                problems[what] = f"{what} cannot be downloaded: {response.text[:200]}"
            elif version not in contents or response.content != contents[version].content:
                problems[what] = f"{what}: other bytes than were uploaded"
    return problems


def is_as_written(live: LiveServer, book: AliasBook) -> bool:
    """Every name is at a state that is possible: true of a replica once it heard of all changes."""
    return all(_observed(live, name) in book.states(name) for name in book.possible)


def _observed(live: LiveServer, name: str) -> AliasState:
    response = live.client.get(f"/adapters/{name}/versions")
    if response.status_code == httpx.codes.NOT_FOUND:
        return ABSENT
    versions: list[dict[str, Any]] = response.raise_for_status().json()["versions"]
    current = [entry["version"] for entry in versions if entry["current"]]
    return AliasState(version=current[0] if current else None, history=tuple(entry["version"] for entry in versions))


def _listed(live: LiveServer) -> Iterator[tuple[str, str]]:
    after: dict[str, str] = {}
    while True:
        page = live.client.get("/adapters", params=after).raise_for_status().json()
        for adapter in page["adapters"]:
            yield adapter["name"], adapter["version"]
        if page["next"] is None:
            return
        after = {"after": page["next"]}
