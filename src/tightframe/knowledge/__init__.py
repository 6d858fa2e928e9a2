"""Study 3: what models learn from injected facts, and how they answer for them.

Public names are loaded when they are first used (PEP 562), so that the command line may import
`data.records`, which knows the types of questions, without the libraries that the study needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of `_PUBLIC`
    from tightframe.knowledge.data.benchmark import load_benchmark, read_facts, write_facts
    from tightframe.knowledge.data.records import Fact, Link, Output, Question, Target, fact_id
    from tightframe.knowledge.data.summary import study_eligible, summarize
    from tightframe.knowledge.ensemble.clusters import (
        facts_fingerprint,
        semantic_clusters,
        temporal_clusters,
    )
    from tightframe.knowledge.ensemble.ensembles import assemble
    from tightframe.knowledge.ensemble.routing import route
    from tightframe.knowledge.ensemble.scope import fit_scope
    from tightframe.knowledge.evaluation.scores import AnswerScores, score_answer
    from tightframe.knowledge.making.questions import ask
    from tightframe.knowledge.making.reordering import with_reordered
    from tightframe.knowledge.wikipedia.parsing import Parsed, Reject, parse

_PUBLIC: dict[str, str] = {
    "AnswerScores": "evaluation.scores",
    "Fact": "data.records",
    "Link": "data.records",
    "Output": "data.records",
    "Parsed": "wikipedia.parsing",
    "Question": "data.records",
    "Reject": "wikipedia.parsing",
    "Target": "data.records",
    "ask": "making.questions",
    "assemble": "ensemble.ensembles",
    "fact_id": "data.records",
    "facts_fingerprint": "ensemble.clusters",
    "fit_scope": "ensemble.scope",
    "load_benchmark": "data.benchmark",
    "parse": "wikipedia.parsing",
    "read_facts": "data.benchmark",
    "route": "ensemble.routing",
    "score_answer": "evaluation.scores",
    "semantic_clusters": "ensemble.clusters",
    "study_eligible": "data.summary",
    "summarize": "data.summary",
    "temporal_clusters": "ensemble.clusters",
    "with_reordered": "making.reordering",
    "write_facts": "data.benchmark",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
