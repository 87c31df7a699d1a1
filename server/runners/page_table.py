"""Which page of the KV memory belongs to whom: counted references, and prefixes found again by their content.

A page holds ``PAGE_TOKENS`` positions of one sequence. A page that is full is never written again, so it can be shared;
it is known by a chain of digests: H(the key of the page before it, the mode it was computed in, its tokens), and the
chain starts at H(tenant, blend key). Equal keys thus mean the same tokens since the beginning, under the same blend,
of the same tenant, each page computed in the same mode. Pages that nobody holds stay findable until their room is
needed: those let go longest ago go first, and of one sequence the last page before the one it follows.

Plain data, no tensors: a page is a number.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from adapters_store.blend import BlendKey
from server.core.requests import Mode

PAGE_TOKENS = 16


class OutOfPages(Exception):
    """More tokens than the KV memory has room for; nothing was taken."""


@dataclass(slots=True, kw_only=True)
class PagedSequence:
    """The pages of one sequence, in order (int32). The first ``num_tokens`` tokens have KV."""

    chain: bytes  # key of the last full page
    pages: array[int] = field(default_factory=lambda: array("i"))
    num_tokens: int = 0
    has_mixed: bool = False  # some of its tokens were computed in mixed mode
    tail: list[int] = field(default_factory=list)  # the tokens of the page that is not full
    is_tail_mixed: bool = False

    @property
    def mode(self) -> Mode:
        return "mixed" if self.has_mixed else "fused"


class PageTable:
    """Hands out ``num_pages`` pages. Engine thread only."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._holders = [0] * num_pages
        self._keys: dict[int, bytes] = {}
        self._by_key: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # findable, held by nobody; longest idle first

    @property
    def num_used_pages(self) -> int:
        """Pages that some sequence holds."""
        return self.num_pages - len(self._free) - len(self._idle)

    @property
    def num_cached_pages(self) -> int:
        """Pages that nobody holds and a new sequence may find."""
        return len(self._idle)

    def fits(self, lengths: Sequence[int]) -> bool:
        """True if sequences of these lengths (tokens), and nothing else, have room at once, sharing nothing."""
        return sum(num_pages_of(length) for length in lengths) <= self.num_pages

    def begin(
        self, tenant: str, blend_key: BlendKey, tokens: Sequence[int], *, must_be_fused: bool = False
    ) -> PagedSequence:
        """A sequence that holds the pages found for the first of ``tokens``, at least one token short of all.

        ``must_be_fused``: only pages computed in fused mode, as everything before them was."""
        root = _root(tenant, blend_key)
        orders: list[tuple[Mode, ...]] = [("fused",)] if must_be_fused else [("fused", "mixed"), ("mixed", "fused")]
        found = max((self._find(root, tokens, modes) for modes in orders), key=lambda sequence: sequence.num_tokens)
        for page in found.pages:
            self._hold(page)
        return found

    def reserve(self, sequence: PagedSequence, num_tokens: int) -> None:
        """Room for ``num_tokens`` more than have KV. Raises OutOfPages."""
        missing = num_pages_of(sequence.num_tokens + num_tokens) - len(sequence.pages)
        if missing > len(self._free) + len(self._idle):
            raise OutOfPages(
                f"{missing} more pages of {PAGE_TOKENS} tokens: {self.num_used_pages} of {self.num_pages} are in use"
            )
        for _ in range(missing):
            page = self._free.pop() if self._free else self._evict()
            self._holders[page] = 1
            sequence.pages.append(page)

    def fill(self, sequence: PagedSequence, tokens: Sequence[int], mode: Mode) -> None:
        """``tokens``, which room was reserved for, have KV now. Pages that became full can be found from here on."""
        sequence.has_mixed |= mode == "mixed"
        for token in tokens:
            sequence.tail.append(token)
            sequence.is_tail_mixed |= mode == "mixed"
            sequence.num_tokens += 1
            if len(sequence.tail) == PAGE_TOKENS:
                self._close(sequence)

    def release(self, sequence: PagedSequence) -> None:
        """Lets all its pages go. The sequence must not be used again."""
        for page in reversed(sequence.pages):
            self._holders[page] -= 1
            if self._holders[page] == 0 and page in self._keys:
                self._idle[page] = None
            elif self._holders[page] == 0:
                self._free.append(page)
        del sequence.pages[:]

    def _find(self, root: bytes, tokens: Sequence[int], modes: tuple[Mode, ...]) -> PagedSequence:
        """The longest known beginning of ``tokens`` when of two pages the one of the first mode is taken."""
        found = PagedSequence(chain=root)
        for start in range(0, len(tokens) - PAGE_TOKENS, PAGE_TOKENS):
            text = tokens[start : start + PAGE_TOKENS]
            keys = ((mode, _key(found.chain, mode, text)) for mode in modes)
            mode, key = next(((mode, key) for mode, key in keys if key in self._by_key), (None, b""))
            if mode is None:
                break
            found.pages.append(self._by_key[key])
            found.chain = key
            found.num_tokens += PAGE_TOKENS
            found.has_mixed |= mode == "mixed"
        return found

    def _close(self, sequence: PagedSequence) -> None:
        """Makes the page that just became full findable. A second copy of a known page stays private."""
        page = sequence.pages[sequence.num_tokens // PAGE_TOKENS - 1]
        sequence.chain = _key(sequence.chain, "mixed" if sequence.is_tail_mixed else "fused", sequence.tail)
        if self._by_key.setdefault(sequence.chain, page) == page:
            self._keys[page] = sequence.chain
        sequence.tail.clear()
        sequence.is_tail_mixed = False

    def _hold(self, page: int) -> None:
        self._holders[page] += 1
        self._idle.pop(page, None)

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        del self._by_key[self._keys.pop(page)]
        return page


def num_pages_of(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def _root(tenant: str, blend_key: BlendKey) -> bytes:
    name = tenant.encode()
    return blake2b(len(name).to_bytes(8, "little") + name + str(blend_key).encode(), digest_size=32).digest()


def _key(parent: bytes, mode: Mode, tokens: Sequence[int]) -> bytes:
    return blake2b(parent + mode.encode() + array("q", tokens).tobytes(), digest_size=32).digest()
