"""The clock of the audits."""

from __future__ import annotations

import asyncio

from server.auditing import audit_every
from server.core.errors import EngineDied
from server.core.steps import VerifyReport

INTACT = VerifyReport(ok=True, digest="sha256:a", expected="sha256:a", num_bytes=1, mismatched=())


class Auditor:
    """Fails once, then finds the base intact twice, then is dead."""

    def __init__(self) -> None:
        self.num_asked = 0

    async def verify(self) -> VerifyReport:
        self.num_asked += 1
        match self.num_asked:
            case 1:
                raise RuntimeError("no memory")
            case 4:
                raise EngineDied("it ended")
        return INTACT


def test_audits_go_on_after_one_that_failed_and_end_with_the_engine() -> None:
    auditor = Auditor()
    asyncio.run(asyncio.wait_for(audit_every(1e-3, auditor.verify), timeout=10))
    assert auditor.num_asked == 4


def test_an_interval_of_0_asks_for_no_audit() -> None:
    auditor = Auditor()
    asyncio.run(asyncio.wait_for(audit_every(0, auditor.verify), timeout=10))
    assert auditor.num_asked == 0
