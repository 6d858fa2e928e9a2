"""Study 3: what models learn from injected facts, and how they answer for them."""

from tightframe.knowledge.benchmark import load_benchmark, read_facts, write_facts
from tightframe.knowledge.clusters import facts_fingerprint, semantic_clusters, temporal_clusters
from tightframe.knowledge.ensembles import assemble
from tightframe.knowledge.parsing import Parsed, Reject, parse
from tightframe.knowledge.questions import ask
from tightframe.knowledge.records import Fact, Link, Output, Question, Target, fact_id
from tightframe.knowledge.reordering import with_reordered
from tightframe.knowledge.routing import route
from tightframe.knowledge.scope import fit_scope
from tightframe.knowledge.scores import AnswerScores, score_answer
from tightframe.knowledge.summary import study_eligible, summarize

__all__ = [
    "AnswerScores",
    "Fact",
    "Link",
    "Output",
    "Parsed",
    "Question",
    "Reject",
    "Target",
    "ask",
    "assemble",
    "fact_id",
    "facts_fingerprint",
    "fit_scope",
    "load_benchmark",
    "parse",
    "read_facts",
    "route",
    "score_answer",
    "semantic_clusters",
    "study_eligible",
    "summarize",
    "temporal_clusters",
    "with_reordered",
    "write_facts",
]
