"""Deep Feature Factorization: non-negative factors by cyclic coordinate descent, one entry at a time."""

from __future__ import annotations

import numpy as np

from tests.oracles.channels import Array


def offset(a: Array) -> Array:
    """Activations of a batch (B, C, *S) as (C, B * prod(S)), every row less its minimum."""
    rows = np.moveaxis(a, 1, 0).reshape(a.shape[1], -1)
    return np.asarray(rows - rows.min(1)[:, None])


def swept(x: Array, w: Array, h: Array) -> float:
    """One sweep over ``w``, in place, at fixed ``h``; the sum of the projected gradients' magnitudes."""
    violation = 0.0
    gram, right = h @ h.T, x @ h.T
    for t in range(w.shape[1]):
        for i in range(len(w)):
            gradient = sum(gram[t, r] * w[i, r] for r in range(w.shape[1])) - right[i, t]
            violation += abs(min(0.0, gradient) if w[i, t] == 0 else gradient)
            if gram[t, t] != 0:
                w[i, t] = max(w[i, t] - gradient / gram[t, t], 0.0)
    return violation


def factorized(a: Array, w: Array, h: Array, tol: float = 1e-4, sweeps: int = 200) -> tuple[Array, Array]:
    """Factors (C, K) and maps (B, K, *S) of activations (B, C, *S), from the start ``w`` (C, K), ``h`` (K, B * S)."""
    x, w, ht = offset(a), w.copy(), h.T.copy()
    first = 0.0
    for sweep in range(sweeps):
        violation = swept(x, w, ht.T) + swept(x.T, ht, w.T)
        first = first if sweep else violation
        if first == 0 or violation / first <= tol:
            break
    maps = ht.T.reshape(w.shape[1], a.shape[0], *a.shape[2:])
    return w, np.asarray(np.moveaxis(maps, 1, 0))
