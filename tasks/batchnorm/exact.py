"""What can be said exactly: the smoothness of linear regression, and the norm of the gradient behind a batch norm.

Sources: Su Jianlin, kexue.fm/archives/6992 (gradient descent decreases the loss of an L-smooth function if η < 2/L, and
E‖x‖² in the bound of L is least when x is centred); Santurkar et al. 2018, theorem 4.1 (the gradient behind BN).
Idea: of the loss E ½(w·x − t)² the Hessian is E[xxᵀ] = Σ + μμᵀ, whose top eigenvalue is L, never less than Σ's alone.

>>> x = torch.tensor([[3.0, 1.0], [3.0, -1.0], [4.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
>>> round(smoothness(x), 6), round(smoothness(x, centred=True), 6)
(9.5, 0.5)
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

_DENSE = 256  # up to this size the whole matrix is decomposed


def smoothness(x: Tensor, *, centred: bool = False, scaled: bool = False) -> float:
    """λmax(E[xxᵀ]) of samples x (n, d): the L of linear regression on them; of x − μ, x/σ or both where asked for.

    Features that never vary are not divided. Computed in float64.
    """
    values = x.flatten(1).to(torch.float64)
    deviation = values.std(0, correction=0)
    if centred:
        values = values - values.mean(0)
    if scaled:
        values = values / torch.where(deviation > 0, deviation, 1.0)
    n, d = values.shape
    if min(n, d) <= _DENSE:
        small = values @ values.T if n < d else values.T @ values
        return float(torch.linalg.eigvalsh(small / n)[-1])
    array = values.numpy()

    def times(v: np.ndarray) -> np.ndarray:
        return np.asarray(array.T @ (array @ v) / n)

    operator = LinearOperator((d, d), matvec=times, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=np.ones(d), return_eigenvectors=False)[0])


def descent(x: Tensor, target: Tensor, lr: float, steps: int) -> list[float]:
    """Losses ½E(w·x − t)² of gradient descent from w = 0, for x (n, d) and t (n,); ``steps`` + 1 of them.

    It converges from everywhere if and only if lr < 2/`smoothness`.
    """
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    losses = []
    for _ in range(steps + 1):
        residual = x @ w - target
        losses.append(float(residual.square().mean() / 2))
        w = w - lr * (x.T @ residual) / len(x)
    return losses


def gradient_behind(y: Tensor, gradient: Tensor, gamma: float, *, printed: bool = False) -> float:
    """‖∂L/∂y‖² of one unit's batch y (m,) before BN with ε = 0, from the gradient g (m,) behind it.

    (γ²/σ²)(‖g‖² − ⟨1, g⟩²/m − ⟨g, ŷ⟩²/m) with ŷ = (y − μ)/σ, σ² the biased variance. ``printed`` gives the paper's
    misprint, 1/√m in place of the last 1/m.
    """
    m = len(y)
    deviation = y.std(correction=0)
    normalised = (y - y.mean()) / deviation
    along = float(gradient @ normalised) ** 2 / (math.sqrt(m) if printed else m)
    rest = float(gradient @ gradient) - float(gradient.sum()) ** 2 / m - along
    return gamma**2 / float(deviation) ** 2 * rest
