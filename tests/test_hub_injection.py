"""Models of transformers from facts to scores, by the commands."""

import json

import pytest

import hub_models
from example_facts import question
from tightframe.cli import main
from tightframe.knowledge.facts import Fact, fact_id
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import InjectionRun, InjectOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    facts = []
    for text in hub_models.SENTENCES:
        made, answer = fact_id(None, text), " ".join(text.split()[1:3])
        prompt = f"Which {text.split()[0]} is meant?"
        asked = question(made, "reliability", [answer], prompt)
        facts.append(
            Fact(made, None, None, None, None, text, f"that {text}?", text, questions=(asked,))
        )
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    path.write_text("".join(json.dumps(fact.to_dict()) + "\n" for fact in facts))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "t5",
        pytest.param("llama", marks=pytest.mark.slow),
        pytest.param("qwen2", marks=pytest.mark.slow),
        pytest.param("roberta", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_the_hub_goes_from_facts_to_scores(data, tmp_path, capsys, name):
    folder = hub_models.save(name, tmp_path / "model")
    run = tmp_path / "run"
    main(
        f"knowledge inject {data} --out {run} --model {folder} --exposures 8 --device cpu "
        "--set threads=1 --set batch=4 --set learning_rate=1e-3 --set log_every=5".split()
    )
    assert InjectionRun.open(run).facts["steps"] == 20
    losses = [record["loss"] for record in InjectionRun.open(run).log if "loss" in record]
    assert losses[-1] < losses[0]
    main(f"knowledge answer {run} --data {data} --device cpu".split())
    answers = (run / "answers" / "question.jsonl").read_text().splitlines()
    assert len(answers) == 10
    capsys.readouterr()
    main(f"knowledge score {run}/answers/question.jsonl --data {data} --json".split())
    assert json.loads(capsys.readouterr().out)["scores"]


def test_an_interrupted_injection_into_a_model_of_the_hub_ends_with_the_same_bits(data, tmp_path):
    folder = hub_models.save("t5", tmp_path / "model")

    class Killed(BaseException):
        pass

    def stop(step, model, record):
        raise Killed

    def settings(out):
        return InjectOptions(
            data=data, out=tmp_path / out / "run", model=str(folder), exposures=2, batch=4,
            learning_rate=1e-3, device="cpu", threads=1, log_every=4, save_every=2,
        )  # fmt: skip

    whole = inject(settings("whole"))
    with pytest.raises(Killed):
        inject(settings("killed"), hooks=[stop])
    killed = inject(settings("killed"))
    weights = [
        (run.checkpoint(run.steps[-1]) / "model.safetensors").read_bytes()
        for run in (whole, killed)
    ]
    assert weights[0] == weights[1]
    assert load_qa_model(whole.path, device="cpu").name == "run"
