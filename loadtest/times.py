"""From the outcomes of a run to the times behind its percentiles."""

from __future__ import annotations

from collections.abc import Iterable

from loadtest.outcomes import Outcome

TIMES = {
    "text_first_token_ms": "streams: to the first text",
    "text_token_ms": "streams: mean time between tokens after the first, of each request",
    "text_ms": "whole texts, streamed or not: to the end",
    "image_ms": "pictures: to the end",
    "upload_ms": "uploads: to the answer",
    "download_ms": "downloads",
    "move_ms": "a name moved to another version",
    "delete_ms": "a delete, until nothing holds the memory",
    "switch_ms": "switches of one text request that had any, all together, as its receipt says",
    "late_ms": "how late the generator sent what was due",
}


def times_ms(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """By the names of ``TIMES``, of what was answered. Waiting counts from when a request was due, not from when a late
    generator sent it."""
    times: dict[str, list[float]] = {name: [] for name in TIMES}
    for one in outcomes:
        if one.due_s is not None:
            times["late_ms"].append(1e3 * one.late_s)
        if one.ending != "answered":
            continue
        if one.first_text_s is not None:
            times["text_first_token_ms"].append(1e3 * (one.late_s + one.first_text_s))
        if one.token_s is not None:
            times["text_token_ms"].append(1e3 * one.token_s)
        if one.action == "text" and one.switch_ms:
            times["switch_ms"].append(one.switch_ms)
        if (name := f"{one.action}_ms") in times:
            times[name].append(1e3 * (one.late_s + one.total_s))
    return times
