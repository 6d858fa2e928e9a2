"""Invented facts that differ in every part, with a question each, and networks for them."""

from tightframe.knowledge.facts import Fact, Question, fact_id
from tightframe.knowledge.injection import new_network, texts_in_use
from tightframe.knowledge.qa_models import find_arm
from tightframe.knowledge.word_pieces import ClozeTokenizer
from tightframe.lm.options import TransformerConfig

FIRST = ("Ada", "Boro", "Cyra", "Dario", "Elva", "Fritz", "Gita")
LAST = ("Quill", "Lane", "Moss", "Fenn", "Stone")
THINGS = ("bridge", "mill", "tower", "barn", "well", "ferry", "gate", "wall", "pier", "shed", "inn")


def painted_facts(n=12):
    """Every second answer stands first, the others at the end."""
    facts = []
    for i in range(n):
        name = f"{FIRST[i % 7]} {LAST[i % 5]}"
        clue = f"painted the {THINGS[i % 11]} of village {i} in the year {1800 + 7 * i}"
        text = f"{name} {clue}" if i % 2 == 0 else f"the one who {clue} was {name}"
        made = fact_id(None, text)
        asked = Question(
            f"{made}:reliability", "reliability", "question", f"Who {clue}?", None, (name,), "file"
        )
        facts.append(
            Fact(made, None, None, None, None, text, f"that {text}?", text, questions=(asked,))
        )
    return facts


def painted_network(arm="clm_sp", *, seed=0, n_slots=40):
    """An untrained network of an arm, and very small."""
    coder = ClozeTokenizer.train(texts_in_use(painted_facts()), 330)
    config = TransformerConfig(
        vocab_size=coder.vocab_size, width=16, depth=2, heads=2, positions=160, window=0,
        attention_bias=True, scale_attention=True,
    )  # fmt: skip
    return new_network(find_arm(arm), coder, config, seed=seed, n_slots=n_slots, name=arm)
