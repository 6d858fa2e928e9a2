"""NC5: whether the class means are orthogonal to what an out-of-distribution stream looks like."""

from jaxtyping import Float64
from torch import Tensor

from tightframe.geometry.values import Geometry, Value


def deviation(geometry: Geometry) -> Value:
    """Mean absolute cosine of a class mean and the mean embedding of the other stream."""
    return _deviation(geometry, geometry.classes.raw_means, centred=False)


def deviation_centred(geometry: Geometry) -> Value:
    """The same, both seen from the global mean."""
    return _deviation(geometry, geometry.classes.means, centred=True)


def _deviation(geometry: Geometry, means: Float64[Tensor, "K D"], *, centred: bool) -> Value:
    if geometry.ood is None:
        return geometry.undefined("no out-of-distribution moments were given")
    counts = geometry.ood.counts
    other = (counts.double() @ geometry.ood.means / counts.sum()).to(means)  # NaN without any
    classes = geometry.classes
    if centred:
        other = other - classes.global_mean
    norms = means.square().sum(1).sqrt()
    defined = classes.nonzero if centred else norms > 0
    cosines = (means @ other)[defined] / (norms[defined] * other.square().sum().sqrt())
    return geometry.of_classes(float(cosines.abs().mean()), len(cosines), why="without a direction")
