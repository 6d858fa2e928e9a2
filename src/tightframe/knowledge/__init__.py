"""Study 3: what models learn from injected facts, and how they answer for them.

Public names are loaded when they are first used (PEP 562), so that the command line may import
`records`, which knows the types of questions, without the libraries that the study needs.
"""

import importlib
from typing import Any

_PUBLIC: dict[str, str] = {
    "AnswerScores": "scores",
    "Fact": "records",
    "Link": "records",
    "Output": "records",
    "Parsed": "parsing",
    "Question": "records",
    "Reject": "parsing",
    "Target": "records",
    "ask": "questions",
    "assemble": "ensembles",
    "fact_id": "records",
    "facts_fingerprint": "clusters",
    "fit_scope": "scope",
    "load_benchmark": "benchmark",
    "parse": "parsing",
    "read_facts": "benchmark",
    "route": "routing",
    "score_answer": "scores",
    "semantic_clusters": "clusters",
    "study_eligible": "summary",
    "summarize": "summary",
    "temporal_clusters": "clusters",
    "with_reordered": "reordering",
    "write_facts": "benchmark",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
