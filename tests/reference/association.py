"""Correlations in plain loops, as textbooks define them."""

import math


def mean(values):
    return sum(values) / len(values)


def pearson(x, y):
    """Covariance over the product of the standard deviations."""
    mx, my = mean(x), mean(y)
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def ranks(values):
    """1 for the smallest; equal values share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def residual_share(x, y, slope, intercept):
    """Share of the variance of y that the line leaves unexplained: 1 - R^2."""
    left = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    return left / sum((b - mean(y)) ** 2 for b in y)
