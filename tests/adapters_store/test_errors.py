"""The tree of errors."""

from __future__ import annotations

from adapters_store import errors


def test_the_drawing_shows_every_error() -> None:
    classes = [name for name, thing in vars(errors).items() if isinstance(thing, type) and issubclass(thing, Exception)]
    drawn = str(errors.__doc__).split()
    assert [name for name in classes if name not in drawn] == []
