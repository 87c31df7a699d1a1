"""The ``shira`` command. Heavy imports happen inside the subcommand that needs them.

Exit codes: 0 done, 1 failed, 2 used wrongly. An error is one line on standard error.
"""

from server.cli.root import main

__all__ = ["main"]
