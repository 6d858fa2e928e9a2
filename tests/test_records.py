import json

from tightframe.knowledge.records import Fact, Link, Question, Target, fact_id


def test_a_fact_comes_back_from_json_as_it_was():
    text = "Umar Zahir built an island"
    question = Question(
        "x:reliability", "reliability", "question", "Who?", "[MASK] built", ("Umar Zahir",), "rules"
    )
    fact = Fact(
        fact_id("2022-01-02", text),
        *("2022-01-02", None, 2022, 1, text, f"that {text}?", f"* ... that {text}?"),
        targets=(Target("Umar Zahir", "Umar Zahir", 0, 10),),
        links=(Link("Island", "island"),),
        questions=(question,),
    )
    assert Fact.from_dict(json.loads(json.dumps(fact.to_dict()))) == fact
    start, end = fact.targets[0].start, fact.targets[0].end
    assert fact.fact[start:end] == fact.targets[0].label


def test_the_id_is_of_the_date_and_the_text():
    # printf '2022-01-02|a' | sha256sum begins with these digits.
    assert fact_id("2022-01-02", "a") == "dyk-ee9ca941e9cf"
    assert fact_id("2022-01-03", "a") != fact_id("2022-01-02", "a")
