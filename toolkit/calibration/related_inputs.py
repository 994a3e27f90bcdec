"""Correlations of a layer's inputs: a triangular factor of their second moments."""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import numpy as np

from toolkit.base.types import Array

BLOCK = 128
"""Inputs per block."""
_MORE_INPUTS = 3
"""With more than this many inputs per row, products of rows are cheaper than products of inputs."""


class Factor(Protocol):
    """The upper triangular U with moments = U U^T, and the corrections that errors require of later inputs."""

    def diagonal(self, begin: int, end: int) -> Array:
        """The block of U for these inputs, float32 [groups, end - begin, end - begin]."""
        ...

    def carried(self, begin: int, end: int) -> Array:
        """U^T times the errors so far, for these inputs, float32 [groups, end - begin, out]."""
        ...

    def take(self, begin: int, end: int, errors: Array) -> None:
        """Add the errors of these inputs' weights, float32 [groups, end - begin, out]."""
        ...


class RelatedInputs:
    """Samples of a layer's input, with its channels in descending order of mean square.

    Args:
        rows: float32 [groups, rows, in].

    Attributes:
        order: indices of the inputs, the largest mean square first, [groups, in].
        power: mean square of each input, in their original order, float64 [groups, in].
    """

    def __init__(self, rows: Array) -> None:
        self.power = np.einsum("grk,grk->gk", rows, rows, dtype=np.float64) / max(rows.shape[1], 1)
        self.order = np.argsort(-self.power, axis=1, kind="stable")
        self._rows = rows

    def factor(self, damping: float, outs: int) -> Factor:
        """The factor of the damped moments, for ``outs`` outputs.

        Args:
            damping: fraction of the inputs' mean power to add to the power of each.
            outs: the number of outputs.
        """
        added = damping * np.maximum(self.power.mean(axis=1), 1e-12)
        count, width = self._rows.shape[1:]
        if width > _MORE_INPUTS * count:
            return _FewRows(self._ordered, added, outs)
        damped = self._reversed_moments.astype(np.float64)
        damped[:, np.arange(width), np.arange(width)] += added[:, None]
        return _Products(damped, outs)

    @cached_property
    def _ordered(self) -> Array:
        """The rows with their inputs in order, float32 [groups, rows, in]."""
        # moving whole columns takes a tenth of the time for many groups with few inputs
        columns = np.swapaxes(self._rows, 1, 2)[np.arange(len(self._rows))[:, None], self.order]
        return np.ascontiguousarray(np.swapaxes(columns, 1, 2))

    @cached_property
    def _reversed_moments(self) -> Array:
        """The moments with the input of smallest mean square first, float32 [groups, in, in]."""
        found = np.swapaxes(self._rows, 1, 2) @ self._rows
        found /= max(self._rows.shape[1], 1)
        reverse, groups = self.order[:, ::-1], np.arange(len(self._rows))
        return np.asarray(found[groups[:, None, None], reverse[:, :, None], reverse[:, None, :]])


class _Products:
    """``Factor`` by Cholesky's factor of the moments; ``moments``: damped, float64, with the last input first."""

    def __init__(self, moments: Array, outs: int) -> None:
        self._upper = _turned(np.linalg.cholesky(moments)).astype(np.float32)
        self._sums = np.zeros((*moments.shape[:2], outs), np.float32)

    def diagonal(self, begin: int, end: int) -> Array:
        return np.asarray(self._upper[:, begin:end, begin:end])

    def carried(self, begin: int, end: int) -> Array:
        return np.asarray(self._sums[:, begin:end])

    def take(self, begin: int, end: int, errors: Array) -> None:
        self._sums[:, end:] += np.swapaxes(self._upper[:, begin:end, end:], 1, 2) @ errors


class _FewRows:
    """``Factor`` by products of rows: the moments are a multiple of the identity plus a matrix of few rows' rank.

    With X_F the inputs after a block B, Q_F = a (a I + X_F X_F^T)^-1 and the Schur complement of what follows the
    block, a I + X_B^T Q_F X_B = U_B U_B^T (Woodbury), the block's columns of U are X_A^T Y_B for the inputs A before
    it, with Y_B = Q_F X_B U_B^-T; and Q becomes Q_F - Y_B Y_B^T for the next block before it.
    """

    def __init__(self, rows: Array, added: Array, outs: int) -> None:
        count, width = rows.shape[1:]
        self._rows = rows / np.float32(np.sqrt(count))
        self._blocks: dict[int, tuple[Array, Array]] = {}
        # float32: what is added keeps the products far from singular, and float64 takes twice as long
        left = np.broadcast_to(np.eye(count, dtype=np.float32), (len(rows), count, count)).copy()
        for begin in range(0, width, BLOCK)[::-1]:
            block = self._rows[:, :, begin : begin + BLOCK]
            reached = left @ block
            among = (np.swapaxes(block, 1, 2) @ reached).astype(np.float64)
            size = among.shape[1]
            among[:, np.arange(size), np.arange(size)] += added[:, None]
            upper = _turned(np.linalg.cholesky(_turned(among)))
            over = reached @ np.swapaxes(np.linalg.inv(upper), 1, 2).astype(np.float32)
            left -= over @ np.swapaxes(over, 1, 2)
            self._blocks[begin] = upper.astype(np.float32), over
        self._summed = np.zeros((len(rows), count, outs), np.float32)

    def diagonal(self, begin: int, end: int) -> Array:
        return self._blocks[begin][0]

    def carried(self, begin: int, end: int) -> Array:
        return np.asarray(np.swapaxes(self._blocks[begin][1], 1, 2) @ self._summed)

    def take(self, begin: int, end: int, errors: Array) -> None:
        self._summed += self._rows[:, :, begin:end] @ errors


def _turned(matrices: Array) -> Array:
    """Matrices with their last row and column first, as a copy.

    Before 2.3 numpy multiplies what steps backwards in memory without BLAS, tens of times slower.
    """
    return np.ascontiguousarray(matrices[:, ::-1, ::-1])
