"""One torch thread for every test: the machines that run them are small and shared."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
