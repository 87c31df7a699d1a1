"""Sparse adapters as data: the format, the kernels, the tiers that hold them, the tools that make them.

Knows nothing of the server, of HTTP or of Prometheus. Lower layers never import higher ones:
``tools | store -> tiers | catalog -> fusion -> format -> kernels -> adapter -> errors``.
"""
