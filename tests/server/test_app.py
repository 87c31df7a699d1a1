"""What the composition root checks before it loads anything."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from server.app import NotListening, check_address
from server.core.config import load_config


def test_an_address_that_is_taken_is_refused_naming_it_and_the_flags(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = load_config({"port": str(port), "data_dir": str(tmp_path)}, {})
        with pytest.raises(NotListening, match=f"127.0.0.1:{port}: .*--port"):
            check_address(config)
    check_address(config)
