"""tightframe: the geometry that language models collapse to, and what the text says of it.

Public names are loaded when they are first used (PEP 562), so `import tightframe` costs nothing.
"""

import importlib
from typing import Any

_PUBLIC: dict[str, str] = {
    "TokenShards": "tightframe.corpus.shards",
    "Transformer": "tightframe.lm.transformer",
    "load_model": "tightframe.lm.load",
    "ClassMoments": "tightframe.geometry.moments",
    "Decisions": "tightframe.geometry.decisions",
    "measure": "tightframe.geometry.study",
    "class_moments": "tightframe.geometry.stream",
    "class_decisions": "tightframe.geometry.decisions",
    "CollapseCallback": "tightframe.geometry.callback",
    "UserError": "tightframe.errors",
    "relate": "tightframe.analysis.relate",
}
_MODULES = (
    "analysis",
    "corpus",
    "geometry",
    "knowledge",
    "lm",
    "ntp",
    "report",
    "results",
)

__all__ = ["__version__", *_MODULES, *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tightframe")
    if name in _MODULES:
        return importlib.import_module(f"tightframe.{name}")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tightframe' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
