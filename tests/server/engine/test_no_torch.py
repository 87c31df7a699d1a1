from __future__ import annotations

import subprocess
import sys


def test_the_engine_imports_without_torch() -> None:
    code = "import sys, server.engine.client, server.engine.loop; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
