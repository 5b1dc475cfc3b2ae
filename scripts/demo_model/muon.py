"""Muon: momentum, orthogonalised; for the matrices of hidden layers.

From scratch and with few examples it learns about twice as fast here as AdamW. Source: Jordan et al.,
"Muon: an optimizer for hidden layers in neural networks" (2024). torch.optim has one, too, that computes in
bfloat16: slow on CPUs without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

MOMENTUM = 0.95
DECAY = 0.05


class Muon(torch.optim.Optimizer):
    """Over matrices only; updates have the root mean square of 0.2 learning rates, as AdamW's often have."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(list(matrices), {"lr": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
                update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                rate = group["lr"]
                matrix.mul_(1 - rate * DECAY).add_(update, alpha=-0.2 * rate * max(matrix.shape) ** 0.5)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Near the closest (semi-)orthogonal matrix: five Newton-Schulz iterations."""
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (2.0315 * a @ a - 4.775 * a) @ x
    return x.T if tall else x
