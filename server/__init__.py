"""shira-server: one base model in memory, sparse adapters switched in and out of it exactly.

Layers, top to bottom: ``__main__ -> cli -> app -> api -> engine | runners -> execution -> core``.
Importing this package loads neither torch nor fastapi.
"""

__version__ = "0.1.0"
