"""The elementwise passes that NumPy does several times faster than torch on few CPU cores.

Of a tile of float64 numbers on one core with AVX-512, torch and NumPy need, in nanoseconds a
number: logarithm 2.0 and 0.6, exponential 1.5 and 0.65, square root 1.7 and 1.0, comparison 0.35
and 0.1, what a mask of few picks 0.8 and 0.15, minimum 0.3 and 0.09. NumPy's loops run on one core:
beyond four, as on other devices, torch's are used.

Axes: I and J rows and columns of a tile, n numbers that were picked.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

FACTOR = 1e-37  # eight numbers above it multiply to one that keeps all digits
CORES = 4  # up to which one core by NumPy is faster than all by torch


def by_numpy(values: Float[Tensor, "..."]) -> bool:
    """Whether NumPy is the faster one here."""
    return values.device.type == "cpu" and torch.get_num_threads() <= CORES


def log(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Natural logarithm of positive numbers; without AVX-512, NumPy's is not the faster one."""
    if by_numpy(values) and torch.backends.cpu.get_cpu_capability() == "AVX512":
        np.log(values.numpy(), out=out.numpy())
        return out
    return torch.log(values, out=out)


def sum_of_logs(values: Float[Tensor, " n"], least: float, *, spare: Float[Tensor, " n"]) -> float:
    """Sum of the natural logarithms of positive numbers, by those of products of eight."""
    parts = values.numel() // 8
    if parts and least > FACTOR:
        half = 4 * parts
        products = torch.mul(values[:half], values[half : 2 * half], out=spare[:half])
        while half > parts:
            half //= 2
            products = products[:half].mul_(products[half:])
        total = float(log(products, out=products).sum())
        if total < math.inf:
            rest = values[8 * parts :]
            return total + float(log(rest, out=spare[: rest.numel()]).sum())
    return float(log(values, out=spare).sum())


def exp(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Exponential of numbers below 709; without AVX-512 as the logarithm."""
    if by_numpy(values) and torch.backends.cpu.get_cpu_capability() == "AVX512":
        np.exp(values.numpy(), out=out.numpy())
        return out
    return torch.exp(values, out=out)


def sqrt(values: Float[Tensor, "..."], *, out: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Square root of numbers that are not negative."""
    if by_numpy(values):
        np.sqrt(values.numpy(), out=out.numpy())
        return out
    return torch.sqrt(values, out=out)


def least(values: Float[Tensor, "..."]) -> float:
    """The smallest number; NaN if one is."""
    return float(values.numpy().min() if by_numpy(values) else values.min())


def least_present(values: Float[Tensor, "..."]) -> float:
    """The smallest number that is not NaN; NaN if none is."""
    if by_numpy(values):
        return float(np.fmin.reduce(values.numpy(), axis=None))
    return float(values[~values.isnan()].amin()) if not values.isnan().all() else math.nan


def greatest(values: Float[Tensor, "..."]) -> float:
    """The largest number; NaN if one is."""
    return float(values.numpy().max() if by_numpy(values) else values.max())


def least_along(values: Float[Tensor, "I J"], dim: int) -> Float[Tensor, " n"]:
    """The smallest numbers along a dimension."""
    if by_numpy(values) and dim == 0:
        return torch.from_numpy(values.numpy().min(0))
    return values.amin(dim)


def places_of_least(
    values: Float[Tensor, "I J"], dim: int, of: Int64[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Where the first of the smallest numbers along a dimension are, of some rows or columns."""
    if by_numpy(values):
        return torch.from_numpy(values.numpy().take(of.numpy(), 1 - dim).argmin(dim))
    return values.index_select(1 - dim, of).argmin(dim)


def above(values: Float[Tensor, "..."], bound: float) -> Bool[Tensor, "..."]:
    """Which numbers are larger than the bound."""
    return torch.from_numpy(values.numpy() > bound) if by_numpy(values) else values > bound


def from_on(values: Float[Tensor, "..."], bound: float) -> Bool[Tensor, "..."]:
    """Which numbers are the bound or larger."""
    return torch.from_numpy(values.numpy() >= bound) if by_numpy(values) else values >= bound


def count(mask: Bool[Tensor, "..."]) -> int:
    """How many are true."""
    if mask.device.type == "cpu":
        return int(np.count_nonzero(mask.numpy()))
    return int(mask.count_nonzero())


def picked(values: Float[Tensor, "..."], mask: Bool[Tensor, "..."]) -> Float[Tensor, " n"]:
    """The numbers where the mask is true."""
    if not by_numpy(values):
        return values[mask]
    # By indices, where many are left out: a mask of no pattern costs eight times as much.
    if count(mask) < 0.95 * mask.numel():
        return torch.from_numpy(np.compress(mask.numpy().ravel(), values.numpy()))
    return torch.from_numpy(values.numpy()[mask.numpy()])
