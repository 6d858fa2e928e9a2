"""Study 3: what models learn from injected facts, and how they answer for them.

Public names are loaded when they are first used (PEP 562), so that the command line may import
`facts`, which knows the types of questions, without the libraries that the study needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see of `_PUBLIC`
    from tightframe.knowledge.answers import Answers, load_answers
    from tightframe.knowledge.benchmark import load, load_benchmark, read_facts, write_facts
    from tightframe.knowledge.clozes import with_reordered
    from tightframe.knowledge.clusters import semantic_clusters, temporal_clusters
    from tightframe.knowledge.ensembles import assemble
    from tightframe.knowledge.facts import (
        Fact,
        FactSet,
        Link,
        Output,
        Question,
        Target,
        fact_id,
        facts_fingerprint,
        study_eligible,
        summarize,
    )
    from tightframe.knowledge.inquiry import Answer
    from tightframe.knowledge.models import InjectedModel, inject
    from tightframe.knowledge.options import AnswerOptions
    from tightframe.knowledge.pages import Parsed, Reject, parse
    from tightframe.knowledge.questions import make_questions
    from tightframe.knowledge.ranking import Ranks
    from tightframe.knowledge.router import fit_router
    from tightframe.knowledge.routing import route
    from tightframe.knowledge.score_tables import Scores, score
    from tightframe.knowledge.scores import AnswerScores, score_answer

_PUBLIC: dict[str, str] = {
    "Answer": "inquiry",
    "AnswerOptions": "options",
    "AnswerScores": "scores",
    "Answers": "answers",
    "Fact": "facts",
    "FactSet": "facts",
    "InjectedModel": "models",
    "Link": "facts",
    "Output": "facts",
    "Parsed": "pages",
    "Question": "facts",
    "Ranks": "ranking",
    "Reject": "pages",
    "Scores": "score_tables",
    "Target": "facts",
    "assemble": "ensembles",
    "fact_id": "facts",
    "facts_fingerprint": "facts",
    "fit_router": "router",
    "inject": "models",
    "load": "benchmark",
    "load_answers": "answers",
    "load_benchmark": "benchmark",
    "make_questions": "questions",
    "parse": "pages",
    "read_facts": "benchmark",
    "route": "routing",
    "score": "score_tables",
    "score_answer": "scores",
    "semantic_clusters": "clusters",
    "study_eligible": "facts",
    "summarize": "facts",
    "temporal_clusters": "clusters",
    "with_reordered": "clozes",
    "write_facts": "benchmark",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
