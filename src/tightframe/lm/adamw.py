"""AdamW by torch's fused kernel, without its `Optimizer`.

That class imports the compiler when it is first made, a second of every run. What is kept of a
parameter has a name here, so that a state of the run is a dictionary of tensors.
"""

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class AdamW:
    """Decoupled weight decay on matrices and embeddings, as `Trainer`: not on biases and norms.

    Args:
        model: Its parameters that require gradients are updated in place, from them.
        betas: Decay of the running means of gradients and of their squares.
        eps: Added to the root of the second mean.
        weight_decay: A step takes `learning_rate * weight_decay` of a weight away.
    """

    def __init__(
        self, model: nn.Module, *, betas: tuple[float, float], eps: float, weight_decay: float
    ):
        self.betas = betas
        self.eps = eps
        self.weight_decay = weight_decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = {name: p.new_zeros(()) for name, p in self.parameters.items()}

    def update(self, learning_rate: float) -> None:
        """Take one step along the gradients, then drop them; a parameter without one stays."""
        given = {n: p for n, p in self.parameters.items() if p.grad is not None}
        decayed = [name for name, parameter in given.items() if parameter.ndim >= 2]
        others = [name for name, parameter in given.items() if parameter.ndim < 2]
        for names, weight_decay in ((decayed, self.weight_decay), (others, 0.0)):
            gradients = [self.parameters[name].grad for name in names]
            with torch.no_grad():
                adamw(
                    [self.parameters[name] for name in names],
                    [gradient for gradient in gradients if gradient is not None],
                    [self.first[name] for name in names],
                    [self.second[name] for name in names],
                    [],
                    [self.steps[name] for name in names],
                    fused=True,
                    amsgrad=False,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    lr=learning_rate,
                    weight_decay=weight_decay,
                    eps=self.eps,
                    maximize=False,
                )
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What a training resumes from; the tensors themselves."""
        return {
            f"{kind}.{name}": value
            for kind, kept in self._kept().items()
            for name, value in kept.items()
        }

    def _kept(self) -> dict[str, dict[str, Tensor]]:
        return {"first": self.first, "second": self.second, "steps": self.steps}
