"""What uploads do: the life of an adapter from upload to delete, a file that must be rejected, a name that is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any

import httpx

from loadtest import checks
from loadtest.asking import Asker
from loadtest.names import Names
from loadtest.outcomes import Action, Ending, Outcome
from loadtest.stock import ServerStock, UploadFile
from loadtest.trace import ImageRow, TextRow, UploadRow

FIRST_TEXT_TOKENS, FIRST_IMAGE_STEPS = 8, 2
Check = Callable[[httpx.Response], str | None]  # what is wrong with an answer


class Lives:
    """Of one server. An outcome is given for every request that is made; the first is due when its row is."""

    def __init__(self, client: httpx.Client, stock: ServerStock, names: Names, asker: Asker, *, start_s: float) -> None:
        self._client, self._stock, self._names, self._asker = client, stock, names, asker
        self._start_s = start_s

    def live(self, row: UploadRow) -> Iterator[Outcome]:
        due_s: float | None = row.offset_s
        for outcome in self._outcomes(row):
            yield replace(outcome, due_s=due_s)
            due_s = None

    def _outcomes(self, row: UploadRow) -> Iterator[Outcome]:
        match row.form:
            case "hostile":
                yield self._hostile(row)
            case "move":
                yield self._move(row)
            case "native" | "peft":
                yield from self._life(row)

    def _life(self, row: UploadRow) -> Iterator[Outcome]:
        """Two files are uploaded under one name, used, downloaded; the name goes back to the first, and is deleted.
        Ends early where something is not answered, with the delete all the same."""
        first, second = Random(row.seed).choices(self._stock.files, k=2)
        self._names.add(row.name, first.version)
        is_there = False
        try:
            for outcome in self._steps(row, first, second):
                yield outcome
                if outcome.ending != "answered":
                    break
                is_there = True
            if is_there:
                yield self._delete(row)
        finally:
            self._names.forget(row.name)

    def _steps(self, row: UploadRow, first: UploadFile, second: UploadFile) -> Iterator[Outcome]:
        """Each is made when the one before was answered."""
        yield self._upload(row, first)
        yield self._use(row)
        yield self._download(row, first)
        yield self._upload(row, second)
        self._names.add(row.name, second.version)
        yield self._use(row)
        yield self._roll_back(row, first)
        self._names.add(row.name, first.version)
        yield self._use(row)

    def _use(self, row: UploadRow) -> Outcome:
        common: dict[str, Any] = {"offset_s": row.offset_s, "adapters": (row.name,), "seed": row.seed}
        if row.server == "pictures":
            return self._asker.image(self._client, ImageRow(num_steps=FIRST_IMAGE_STEPS, **common))
        text = TextRow(prompt_tokens=FIRST_TEXT_TOKENS, output_tokens=FIRST_TEXT_TOKENS, **common)
        return self._asker.text(self._client, text)

    def _upload(self, row: UploadRow, file: UploadFile) -> Outcome:
        is_peft = row.form == "peft"
        expected = {"name": row.name, "version": file.version, "base_verified": not is_peft}
        names = ("config", "adapter_config.json"), ("weights", "adapter_model.safetensors")
        parts = {part: file.peft / name for part, name in names} if is_peft and file.peft else {"file": file.native}
        return self._sent("upload", _fields(201, 200, **expected), self._request_upload(row.name, parts))

    def _hostile(self, row: UploadRow) -> Outcome:
        file = Random(row.seed).choice(self._stock.hostile)

        def check(response: httpx.Response) -> str | None:
            rejected = checks.rejection(response.status_code, response.content)
            return None if rejected else f"{file.label}: expected a rejection, got {_shown(response)}"

        return self._sent("hostile", check, self._request_upload(row.name, {"file": file.path}))

    def _request_upload(self, name: str, parts: dict[str, Any]) -> Callable[[], httpx.Response]:
        files = {part: (path.name, path.read_bytes()) for part, path in parts.items()}
        return lambda: self._client.post("/adapters", data={"name": name}, files=files)

    def _download(self, row: UploadRow, file: UploadFile) -> Outcome:
        def check(response: httpx.Response) -> str | None:
            if response.status_code != httpx.codes.OK:
                return f"expected 200, got {_shown(response)}"
            return None if response.content == file.native.read_bytes() else "the bytes are not those uploaded"

        return self._sent("download", check, lambda: self._client.get(f"/adapters/{row.name}/content"))

    def _roll_back(self, row: UploadRow, file: UploadFile) -> Outcome:
        return self._sent("move", _fields(200, version=file.version), self._patch(row.name, file.version))

    def _move(self, row: UploadRow) -> Outcome:
        versions = self._stock.versions[row.name]
        following = dict(zip(versions, (*versions[1:], versions[0]), strict=True))
        with self._names.moving(row.name, following) as move:
            outcome = self._sent("move", _fields(200, version=move.version), self._patch(row.name, move.version))
            move.ending = outcome.ending
        return outcome

    def _patch(self, name: str, version: str) -> Callable[[], httpx.Response]:
        return lambda: self._client.patch(f"/adapters/{name}", json={"version": version})

    def _delete(self, row: UploadRow) -> Outcome:
        def check(response: httpx.Response) -> str | None:
            if problem := _fields(200, name=row.name)(response):
                return problem
            gone = self._client.get(f"/adapters/{row.name}")
            return None if gone.status_code == httpx.codes.NOT_FOUND else f"deleted, but there: {_shown(gone)}"

        return self._sent("delete", check, lambda: self._client.delete(f"/adapters/{row.name}"))

    def _sent(self, action: Action, check: Check, send: Callable[[], httpx.Response]) -> Outcome:
        sent_s = monotonic()
        try:
            response = send()
            total_s = monotonic() - sent_s
            ending, detail = _judge(response, check)
        except httpx.HTTPError as error:
            total_s = monotonic() - sent_s
            ending, detail = "lost", f"{type(error).__name__}: {error}"
        return Outcome(
            action=action,
            ending=ending,
            detail=detail,
            due_s=None,
            sent_s=sent_s - self._start_s,
            total_s=total_s,
        )


def _judge(response: httpx.Response, check: Check) -> tuple[Ending, str]:
    if ended := checks.unanswered(response.status_code, response.headers, response.content):
        return ended
    problem = checks.problem_of(lambda: check(response))
    return ("wrong", problem) if problem else ("answered", "")


def _fields(*statuses: int, **expected: object) -> Check:
    def check(response: httpx.Response) -> str | None:
        if response.status_code not in statuses:
            return f"expected {statuses[0]}, got {_shown(response)}"
        answer = response.json()
        got = {name: answer.get(name) for name in expected}
        return None if got == expected else f"expected {expected}, got {got}"

    return check


def _shown(response: httpx.Response) -> str:
    return f"{response.status_code}: {response.text[:300]}"
