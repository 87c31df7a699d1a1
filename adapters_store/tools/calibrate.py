"""Gradients of whole weights on a sample of the data: what the masks ``grad`` and ``snip`` rank by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


def accumulated_gradients(
    model: nn.Module, names: Sequence[str], examples: Dataset[dict[str, Tensor]], *, batch_size: int
) -> dict[str, Tensor]:
    """The gradient of the loss in each named weight, summed in fp32 on the CPU over batches of ``examples``. The model,
    called with a batch, gives its ``loss``; it is left as it was. For as long as this runs, gradients take what the
    named weights take, once in the model's dtype and once in fp32.

    Raises KeyError for a name that is not a parameter of ``model``.
    """
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros(parameters[name].shape) for name in names}
    frozen = {name: parameter.requires_grad for name, parameter in parameters.items()}
    was_training = model.training
    model.eval()  # the same gradients again, whatever dropout the model has
    model.requires_grad_(False)
    for name in names:
        parameters[name].requires_grad_(True)
    try:
        device = parameters[names[0]].device
        for batch in DataLoader(examples, batch_size=batch_size):
            model(**{field: tensor.to(device) for field, tensor in batch.items()})["loss"].backward()
            for name in names:
                gradient, parameters[name].grad = parameters[name].grad, None
                sums[name] += 0 if gradient is None else gradient.float().cpu()
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(frozen[name])
            if name in sums:
                parameter.grad = None
        model.train(was_training)
    return sums
