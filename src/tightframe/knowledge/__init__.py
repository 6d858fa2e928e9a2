"""Study 3: what models learn from injected facts, and how they answer for them.

Public names are loaded when they are first used (PEP 562), so that the command line may import
`records`, which knows the types of questions, without the libraries that the study needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of `_PUBLIC`
    from tightframe.knowledge.benchmark import load_benchmark, read_facts, write_facts
    from tightframe.knowledge.clusters import (
        facts_fingerprint,
        semantic_clusters,
        temporal_clusters,
    )
    from tightframe.knowledge.ensembles import assemble
    from tightframe.knowledge.parsing import Parsed, Reject, parse
    from tightframe.knowledge.questions import ask
    from tightframe.knowledge.records import Fact, Link, Output, Question, Target, fact_id
    from tightframe.knowledge.rewording import with_reordered
    from tightframe.knowledge.routing import route
    from tightframe.knowledge.scope import fit_scope
    from tightframe.knowledge.scores import AnswerScores, score_answer
    from tightframe.knowledge.summary import study_eligible, summarize

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
    "with_reordered": "rewording",
    "write_facts": "benchmark",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
