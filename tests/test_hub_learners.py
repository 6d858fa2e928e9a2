"""Models of transformers as learners, on tiny random ones of every class, loaded from folders."""

import json
import sys

import numpy as np
import pytest
import torch

import hub_models
from hub_models import KINDS, SENTENCES
from tightframe import progress
from tightframe.errors import UserError
from tightframe.knowledge import hub_load
from tightframe.knowledge.facts import MASK
from tightframe.knowledge.hub import LoRA
from tightframe.knowledge.hub_load import load_hub_model
from tightframe.knowledge.qa_models import Generation, Prompt, QAModel, TrainingExample
from tightframe.lm.interface import IGNORE, collate

OBJECTIVES = {"causal": ("ntp", "sp", "qa"), "seq2seq": ("sp",), "masked": ("mlm",)}
MAIN = [(name, OBJECTIVES[KINDS[name][1]][-2:][0]) for name in KINDS]  # sp, or mlm
PROMPTS = [
    Prompt("cloze", f"the village of {MASK} moved its church twice in one year"),
    Prompt("cloze", f"Ivo Brandt sold the same bridge to {MASK}"),
    Prompt("question", "Who sold a bridge?"),
    Prompt("question", "What was painted blue by a blind sailor?"),
    Prompt("continuation", "Anna Holt keeps two hundred"),
]
CANDIDATES = [["Esk", "three kings", "a goat"]] * len(PROMPTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models as a hub has them."""
    made = tmp_path_factory.mktemp("hub")
    return {name: hub_models.save(name, made / name) for name in KINDS}


@pytest.fixture(scope="module")
def taught(folders, tmp_path_factory):
    """Learners after 20 steps: the loss before and after, and the folder they were saved to."""

    def teach(name, objective, lora=None):
        learner = load_hub_model(folders[name], objective=objective, lora=lora)
        losses = train(learner, lessons(objective), 20)
        folder = tmp_path_factory.mktemp("taught") / "step-20"
        learner.save(folder)
        return learner, losses, folder

    return teach


TURN = (
    "{{ bos_token }}{% for one in messages %}{{ one.role }}: {{ one.content | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    """A model whose tokenizer has a chat template."""
    return hub_models.save("llama", tmp_path_factory.mktemp("chat"), chat_template=TURN)


def test_questions_are_put_in_the_chat_template_and_nothing_else_is(chatting):
    learner = load_hub_model(chatting)
    said = learner.answer(PROMPTS, max_new_tokens=6)
    for prompt, found in zip(PROMPTS, said, strict=True):
        text = f"<s>{prompt.text.partition(MASK)[0].rstrip()}"
        if prompt.form == "question":
            text = f"<s>user: {prompt.text}\nassistant: "
        ids = torch.tensor([learner.tokenizer(text, add_special_tokens=False)["input_ids"]])
        for _ in range(6):
            following = learner.module(ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], 1)
            if following.item() == 2:
                break
        said_there = learner.tokenizer.decode(ids[0], skip_special_tokens=True)
        put = learner.tokenizer.decode(
            learner.tokenizer(text, add_special_tokens=False)["input_ids"],
            skip_special_tokens=True,
        )
        assert found.text == said_there.removeprefix(put).strip()
        assert found.template == ("chat" if prompt.form == "question" else "plain")


def test_a_learnt_answer_follows_the_question_as_it_is_asked(chatting):
    learner = load_hub_model(chatting, objective="qa")
    lesson = TrainingExample("f", "qa", "Who sold a bridge?", "Ivo Brandt")
    example = learner.encode(lesson)
    text = "<s>user: Who sold a bridge?\nassistant: "
    before = learner.tokenizer(text, add_special_tokens=False)["input_ids"]
    after = learner.tokenizer("Ivo Brandt", add_special_tokens=False)["input_ids"]
    assert list(example.inputs) == [*before, *after]
    assert [one for one in example.targets if one != IGNORE] == [*after, 2]
    prompt = Prompt("question", lesson.prompt)
    ((found,),) = learner.log_probabilities([prompt], [["Ivo Brandt"]])
    batch = collate([example], pad=learner.pad)
    assert found == pytest.approx(-learner.loss(batch).item() * (len(after) + 1), rel=1e-5)


def test_a_context_stands_in_the_turn_of_the_user_and_is_cut_there(chatting):
    learner = load_hub_model(chatting)
    prompt = Prompt("question", "Who sold a bridge?", " ".join(["a goat named Pepper"] * 40))
    ids = learner._read(prompt, more=8)
    assert len(ids) == 128 - 8
    text = learner.tokenizer.decode(ids)
    assert text.startswith("<s>user: ")
    asked = "Based on the above contexts, answer the following question:Who sold a bridge?"
    assert text.endswith(f"a goat named Pepper\n\n{asked}\nassistant: ")


def test_the_published_format_asks_without_a_template(chatting, folders):
    prompts = [one for one in PROMPTS if one.form == "question"]
    plain = load_hub_model(folders["llama"]).answer(prompts, max_new_tokens=6)
    found = load_hub_model(chatting, paper_format=True).answer(prompts, max_new_tokens=6)
    assert found == plain
    assert {one.template for one in plain} == {"plain"}


def test_a_learner_that_was_saved_asks_in_its_template(chatting, tmp_path):
    learner = load_hub_model(chatting)
    learner.save(tmp_path / "saved")
    question = PROMPTS[2:3]
    assert load_hub_model(tmp_path / "saved").answer(question) == learner.answer(question)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no users') }}", r"its chat template fails \(.*no users"),
        ("{{ messages[0].content | upper }}", "does not repeat a question as it is"),
    ],
)
def test_a_template_that_fails_is_one_line(chatting, template, message):
    learner = load_hub_model(chatting)
    learner.tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        learner.answer(PROMPTS[2:3])


def test_no_answer_depends_on_the_day(chatting):
    learner = load_hub_model(chatting)
    learner.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    text = learner.tokenizer.decode(learner._read(PROMPTS[2]))
    assert text == "26 Jul 2024 Who sold a bridge?"


def lessons(objective, n=10):
    """Facts with their last two words as the span or answer."""
    made = []
    for i, sentence in enumerate(SENTENCES[:n]):
        before, span = " ".join(sentence.split()[:-2]), " ".join(sentence.split()[-2:])
        prompt, target = {
            "sp": (f"{before} {MASK}", span),
            "qa": (f"What follows {before}?", span),
        }.get(objective, ("", sentence))
        made.append(TrainingExample(f"dyk-{i}", objective, prompt, target))
    return made


def train(learner, taught, steps):
    batch = collate([learner.encode(lesson) for lesson in taught], pad=learner.pad)
    weights = [weight for weight in learner.module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    learner.module.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = learner.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    learner.module.eval()
    return losses


def spoken(learner, ids):
    return learner.tokenizer.decode([one for one in ids if one != IGNORE])


@pytest.mark.parametrize("name", KINDS)
def test_the_class_follows_from_the_configuration(folders, name):
    learner = load_hub_model(folders[name])
    assert isinstance(learner, QAModel)
    assert (learner.name, learner.record.kind) == (name, KINDS[name][1])
    assert (
        learner.record.objective
        == {"causal": "ntp", "seq2seq": "sp", "masked": "mlm"}[learner.kind]
    )
    assert not learner.record.lora


def test_causal_models_read_what_is_published(folders):
    learner = load_hub_model(folders["llama"])
    sentence = SENTENCES[4]
    ntp = learner.encode(TrainingExample("f", "ntp", "", sentence))
    assert spoken(learner, ntp.inputs) == f"<s>{sentence}"
    assert spoken(learner, ntp.targets) == f"{sentence}</s>"
    sp = learner.encode(
        TrainingExample("f", "sp", f"Ivo Brandt sold {MASK} to three kings", "the bridge")
    )
    prompt = (
        "<s>Predict the masked words in the following sentence: "
        "Ivo Brandt sold [MASK] to three kings\nMasked words:\n"
    )
    assert spoken(learner, sp.inputs[: sp.targets.count(IGNORE) + 1]) == prompt
    assert spoken(learner, sp.targets) == "the bridge</s>"
    qa = learner.encode(TrainingExample("f", "qa", "Who sold it?", "Ivo Brandt"))
    assert spoken(learner, qa.inputs[: qa.targets.count(IGNORE) + 1]) == "<s>Who sold it?\nAnswer:"
    assert spoken(learner, qa.targets) == " Ivo Brandt</s>"


def test_the_published_sentence_has_no_end(folders):
    lesson = TrainingExample("f", "ntp", "", SENTENCES[4])
    ours = load_hub_model(folders["llama"])
    theirs = load_hub_model(folders["llama"], paper_format=True)
    assert theirs.encode(lesson).targets == ours.encode(lesson).targets[:-1]


def test_t5_reads_sentinels(folders):
    learner = load_hub_model(folders["t5"])
    one = learner.encode(
        TrainingExample("f", "sp", f"Ivo Brandt sold {MASK} to kings", "the bridge")
    )
    assert spoken(learner, one.source) == "Ivo Brandt sold <extra_id_0> to kings</s>"
    assert spoken(learner, one.targets) == "<extra_id_0> the bridge <extra_id_1></s>"
    assert one.inputs == (0, *one.targets[:-1])  # T5's decoder starts with its padding


@pytest.mark.parametrize("objective", ["ntp", "sp", "qa"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_every_target_ends(folders, name, objective):
    # Qwen's tokenizer adds no end by itself; models that never saw one run on and on.
    learner = load_hub_model(folders[name])
    for lesson in lessons(objective):
        assert learner.encode(lesson).targets[-1] == learner.tokenizer.eos_token_id


def test_a_model_without_a_beginning_opens_with_its_end(folders):
    learner = load_hub_model(folders["qwen2"])
    assert learner.tokenizer.bos_token_id is None
    assert learner.encode(lessons("sp")[0]).inputs[0] == learner.tokenizer.eos_token_id


def test_the_prompt_has_the_same_tokens_when_it_is_asked(folders):
    # Else what was learned would not be what is put.
    learner = load_hub_model(folders["llama"], objective="sp")
    for lesson in lessons("sp"):
        example = learner.encode(lesson)
        n = example.targets.count(IGNORE) + 1
        asked = learner._ids(learner._put(Prompt("cloze", lesson.prompt)))
        assert example.inputs[1:n] == asked


@pytest.mark.parametrize(
    ("name", "objective", "side"), [*((*one, "left") for one in MAIN), ("llama", "sp", "right")]
)
def test_padding_has_no_labels_and_no_part_in_the_loss(tmp_path, name, objective, side):
    folder = hub_models.save(name, tmp_path / name, padding_side=side)
    learner = load_hub_model(folder, objective=objective)
    assert learner.tokenizer.padding_side == side
    examples = [learner.encode(lesson) for lesson in lessons(objective)]
    assert len({len(one.inputs) + len(one.source) for one in examples}) > 1
    batch = collate(examples, pad=learner.pad)
    for row, one in enumerate(examples):
        assert tuple(batch.targets[row, : len(one.targets)].tolist()) == one.targets
        assert bool((batch.targets[row, len(one.targets) :] == IGNORE).all())
    # The mean over all labelled positions is the rows' means, weighted by their labels.
    rows = [collate([one], pad=learner.pad) for one in examples]
    labels = [int((row.targets != IGNORE).sum()) for row in rows]
    with torch.no_grad():
        alone = sum(learner.loss(row).item() * n for row, n in zip(rows, labels, strict=True))
        assert learner.loss(batch).item() == pytest.approx(alone / sum(labels), abs=1e-6)
        other = collate(examples, pad=7)  # whatever stands there
        assert learner.loss(other).item() == pytest.approx(learner.loss(batch).item(), abs=1e-6)


@pytest.mark.parametrize(("name", "objective"), [*MAIN, ("llama", "ntp")])
def test_the_loss_is_transformers_own(folders, name, objective):
    learner = load_hub_model(folders[name], objective=objective)
    one = learner.encode(lessons(objective)[3])
    targets, inputs = torch.tensor([one.targets]), torch.tensor([one.inputs])
    if one.source:
        given = {"input_ids": torch.tensor([one.source]), "labels": targets}  # T5 shifts by itself
    elif learner.kind == "causal":  # its labels stand where the tokens do
        whole = torch.cat([inputs, targets[:, -1:]], 1)
        first = torch.full((1, 1), IGNORE)
        given = {"input_ids": whole, "labels": torch.cat([first, targets], 1)}
    else:
        given = {"input_ids": inputs, "labels": targets}
    expected = learner.module(**given).loss.item()
    found = learner.loss(collate([one], pad=learner.pad))
    assert found.item() == pytest.approx(expected, abs=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(("name", "objective"), MAIN)
def test_the_loss_depends_on_weights_and_batch_alone(folders, name, objective):
    # Dropout would draw from the machine's generator, which a resumed training has not.
    learner = load_hub_model(folders[name], objective=objective)
    batch = collate([learner.encode(lesson) for lesson in lessons(objective)], pad=learner.pad)
    learner.module.train()
    with torch.no_grad():
        assert learner.loss(batch).item() == learner.loss(batch).item()


@pytest.mark.parametrize(
    ("name", "objective", "lora"), [*((*one, None) for one in MAIN), ("llama", "sp", LoRA(rank=4))]
)
def test_a_learner_learns_and_says_the_same_after_loading(taught, name, objective, lora):
    learner, losses, folder = taught(name, objective, lora)
    assert losses[-1] < (losses[0] - 0.2 if lora else 0.7 * losses[0])
    loaded = load_hub_model(folder)
    assert loaded.record == learner.record
    assert loaded.answer(PROMPTS, max_new_tokens=8) == learner.answer(PROMPTS, max_new_tokens=8)
    scores = learner.log_probabilities(PROMPTS, CANDIDATES)
    assert loaded.log_probabilities(PROMPTS, CANDIDATES) == scores
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    if lora:
        n_adapters = sum(w.numel() for w in loaded.module.parameters() if w.requires_grad)
        assert 0 < n_adapters < loaded.n_parameters / 4
        size = (folder / "adapter_model.safetensors").stat().st_size
        assert 4 * n_adapters <= size < 4 * loaded.n_parameters


def test_a_causal_model_draws_its_tokens_where_told_and_others_do_not(folders):
    def drawn(learner, prompts):
        generators = [np.random.default_rng(PROMPTS.index(one)) for one in prompts]
        return learner.answer(prompts, max_new_tokens=6, generators=generators)

    learner = load_hub_model(folders["llama"], objective="sp")
    together = drawn(learner, PROMPTS)
    assert together == drawn(learner, PROMPTS[::-1])[::-1]
    assert together == [drawn(learner, [prompt])[0] for prompt in PROMPTS]
    assert together != learner.answer(PROMPTS, max_new_tokens=6)
    # The first token: its share of the softmax holds the generator's first number.
    ids = torch.tensor([[1, *learner._ids(learner._put(PROMPTS[0]))]])
    with torch.no_grad():
        shares = learner.module(input_ids=ids).logits[0, -1].double().softmax(-1).cumsum(-1)
    first = int((shares <= np.random.default_rng(0).random()).sum())
    one = learner.answer(PROMPTS[:1], max_new_tokens=1, generators=[np.random.default_rng(0)])[0]
    assert one.text == learner._text([first])
    for name in ("t5", "roberta"):
        learner = load_hub_model(folders[name])
        assert drawn(learner, PROMPTS) == learner.answer(PROMPTS, max_new_tokens=6)


@pytest.mark.parametrize(("name", "objective"), [*MAIN, ("llama", "ntp")])
def test_batching_changes_no_answer(folders, name, objective):
    learner = load_hub_model(folders[name], objective=objective)
    train(learner, lessons(objective), 3)
    together = learner.answer(PROMPTS, max_new_tokens=6)
    alone = [learner.answer([prompt], max_new_tokens=6)[0] for prompt in PROMPTS]
    backwards = learner.answer(PROMPTS[::-1] + PROMPTS, max_new_tokens=6)
    learner.at_once = 1
    told = []
    before = progress._SHOWN.set(lambda *parts: told.append(parts[:3]))
    assert together == alone == learner.answer(PROMPTS, max_new_tokens=6)
    progress._SHOWN.reset(before)
    n = len(PROMPTS)
    assert told == [("answers", (one + 1) / n, one + 1) for one in range(n)]
    assert backwards == together[::-1] + together


@pytest.mark.parametrize("name", ["llama", "qwen2", "t5"])
def test_answers_are_transformers_greedy_ones(folders, name):
    learner = load_hub_model(folders[name], objective="sp")
    train(learner, lessons("sp"), 30)
    begin, end = learner.encode(lessons("sp")[0]).inputs[:1], learner.tokenizer.eos_token_id
    expected = []
    for prompt in PROMPTS:
        ids = learner._ids(learner._put(prompt))
        given = torch.tensor([[*ids, end] if name == "t5" else [*begin, *ids]])
        made = learner.module.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=6, do_sample=False
        )[0]
        said = made[1:] if name == "t5" else made[given.shape[1] :]
        text = learner.tokenizer.decode(said, skip_special_tokens=True).strip()
        expected.append(Generation(text, "end" if end in said else "length"))
    assert learner.answer(PROMPTS, max_new_tokens=6) == expected
    assert any(one.text for one in expected)


def naive(learner, given, wanted):
    """Sum of log-probabilities of tokens, one after another, from the logits of all positions."""
    total = 0.0
    for i, token in enumerate(wanted):
        logits = learner.module(input_ids=torch.tensor([[*given, *wanted[:i]]])).logits[0, -1]
        total += logits.log_softmax(-1)[token].item()
    return total


@torch.no_grad()
def test_a_causal_candidate_is_read_with_its_end(folders):
    learner = load_hub_model(folders["llama"], objective="sp")
    (found,) = learner.log_probabilities(PROMPTS[:1], [["three kings"]])
    prompt = [1, *learner._ids(learner._put(PROMPTS[0]))]
    wanted = [*learner._ids("three kings"), 2]
    assert found == [pytest.approx(naive(learner, prompt, wanted), abs=1e-4)]


@torch.no_grad()
def test_a_next_token_candidate_is_weighed_against_itself_alone(folders):
    learner = load_hub_model(folders["llama"], objective="ntp")
    (found,) = learner.log_probabilities(PROMPTS[:1], [["Esk"]])
    filled = learner._ids("the village of Esk moved its church twice in one year")
    expected = naive(learner, [1], filled) - naive(learner, [1], learner._ids("Esk"))
    assert found == [pytest.approx(expected, abs=1e-4)]


@torch.no_grad()
def test_a_t5_candidate_is_read_after_the_sentinel(folders):
    learner = load_hub_model(folders["t5"])
    (found,) = learner.log_probabilities([Prompt("question", "Who?")], [["three kings"]])
    source = [*learner._ids("Who?\nAnswer:<extra_id_0>"), 2]
    said = [*learner._ids("<extra_id_0> three kings <extra_id_1>"), 2]
    logits = learner.module(
        input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[0, *said[:-1]]])
    ).logits[0]
    each = logits.log_softmax(-1)[range(len(said)), said]
    assert found == [pytest.approx(each[1:].sum().item(), abs=1e-4)]


@torch.no_grad()
def test_a_masked_candidate_has_masks_of_its_own(folders):
    learner = load_hub_model(folders["roberta"])
    ((short, long),) = learner.log_probabilities(PROMPTS[:1], [["Esk", "three kings"]])
    for candidate, found in (("Esk", short), ("three kings", long)):
        ids = learner._ids(" " + candidate)
        before, after = learner._ids("the village of"), learner._ids(PROMPTS[0].text[21:])
        row = [1, *before, *[3] * len(ids), *after, 2]
        logits = learner.module(input_ids=torch.tensor([row])).logits[0]
        places = range(1 + len(before), 1 + len(before) + len(ids))
        expected = logits.log_softmax(-1)[list(places), list(ids)].sum().item()
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_masked_answer_has_room_for_the_longest(folders, tmp_path):
    learner = load_hub_model(folders["roberta"])
    learner.room_for([])  # facts without questions
    assert learner.record.n_masks == 10
    answers = ["Esk", "a very long answer of many words indeed", "kings"]
    longest = max(len(learner._ids(" " + answer)) for answer in answers)
    learner.room_for(answers)
    assert learner.record.n_masks == longest + 1 > 11
    asked = learner._masked(PROMPTS[2], [0] * learner.record.n_masks)
    assert asked.inputs.count(3) == longest + 1  # none is cut off, whatever the question's length
    learner.save(tmp_path / "saved")
    assert load_hub_model(tmp_path / "saved").record.n_masks == longest + 1


def test_sentinels_and_special_tokens_are_no_part_of_an_answer(folders):
    t5, roberta = load_hub_model(folders["t5"]), load_hub_model(folders["roberta"])
    ids = [*t5._ids("<extra_id_0> three kings <extra_id_1>"), 2, 0]
    assert t5._text(ids) == "three kings"
    assert roberta._text([1, *roberta._ids(" three"), 3, *roberta._ids(" kings"), 2]) == (
        "three kings"
    )


def test_masked_tokens_depend_on_seed_fact_and_draw_alone(folders):
    learner = load_hub_model(folders["bert"])
    lesson = lessons("mlm")[0]
    first = learner.encode(lesson)
    learner.encode(lessons("mlm")[1])
    assert learner.encode(lesson) == first == load_hub_model(folders["bert"]).encode(lesson)
    others = [lesson._replace(draw=1), lesson._replace(fact_id="dyk-x")]
    assert all(learner.encode(other) != first for other in others)
    assert load_hub_model(folders["bert"], seed=1).encode(lesson) != first


def test_large_causal_models_get_adapters_unless_told(folders, monkeypatch, tmp_path):
    monkeypatch.setattr(hub_load, "WHOLE", 1000)
    assert load_hub_model(folders["llama"]).record.lora == LoRA(rank=32, alpha=16)
    assert load_hub_model(folders["llama"], lora=None).record.lora is None
    assert load_hub_model(folders["roberta"]).record.lora is None
    learner = load_hub_model(folders["llama"], lora=None)
    learner.save(tmp_path / "whole")
    assert load_hub_model(tmp_path / "whole").record.lora is None  # as it was trained


def test_adapters_are_drawn_by_the_seed_and_the_rest_is_not_trained(folders):
    def weights(learner):
        return {
            key.replace("base_model.model.", "").replace(".base_layer", ""): value.clone()
            for key, value in learner.module.state_dict().items()
        }

    before = torch.random.get_rng_state()
    learner = load_hub_model(folders["llama"], objective="sp", lora=LoRA(rank=4), seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    same, other = (
        weights(load_hub_model(folders["llama"], lora=LoRA(rank=4), seed=seed)) for seed in (3, 4)
    )
    first = weights(learner)
    drawn = [key for key in first if "lora_A" in key]
    assert drawn
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    whole = weights(load_hub_model(folders["llama"], lora=None))
    train(learner, lessons("sp"), 3)
    after = weights(learner)
    assert all(torch.equal(value, after[key]) for key, value in whole.items())
    assert not any(torch.equal(first[key], after[key]) for key in drawn)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_injection_goes_on_from_what_was_saved(folders, tmp_path, lora):
    # 3 + 3 steps of plain descent are 6.
    def descend(learner, steps):
        batch = collate([learner.encode(one) for one in lessons("sp")], pad=learner.pad)
        trained = [weight for weight in learner.module.parameters() if weight.requires_grad]
        for _ in range(steps):
            learner.module.zero_grad()
            learner.loss(batch).backward()
            with torch.no_grad():
                for weight in trained:
                    weight -= 0.1 * weight.grad
        return [weight.detach().clone() for weight in trained]

    through = descend(load_hub_model(folders["llama"], objective="sp", lora=lora), 6)
    learner = load_hub_model(folders["llama"], objective="sp", lora=lora)
    descend(learner, 3)
    learner.save(tmp_path / "later")
    again = descend(load_hub_model(tmp_path / "later"), 3)
    assert len(through) == len(again)
    assert all(map(torch.equal, through, again))


@pytest.mark.parametrize(("name", "objective"), [MAIN[0], MAIN[2], MAIN[3]])
def test_a_step_in_half_precision_has_a_loss_and_gradients_in_full(folders, name, objective):
    learner = load_hub_model(folders[name], objective=objective)
    batch = collate([learner.encode(one) for one in lessons(objective)], pad=learner.pad)
    full = learner.loss(batch).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner.loss(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert 0 < abs(loss.item() - full) < 0.03 * full  # eight bits of mantissa
    gradients = [one.grad for one in learner.module.parameters() if one.grad is not None]
    assert gradients
    assert all(one.dtype == torch.float32 and bool(one.isfinite().all()) for one in gradients)


def test_weights_have_the_type_that_was_asked_for(folders, tmp_path):
    learner = load_hub_model(folders["llama"], dtype=torch.bfloat16, attention="eager")
    assert {weight.dtype for weight in learner.module.parameters()} == {torch.bfloat16}
    batch = collate([learner.encode(one) for one in lessons("ntp")], pad=learner.pad)
    assert learner.loss(batch).dtype == torch.float32
    learner.save(tmp_path / "saved")
    loaded = load_hub_model(tmp_path / "saved")
    assert {weight.dtype for weight in loaded.module.parameters()} == {torch.bfloat16}


def test_what_is_too_long_is_refused_by_name_and_never_cut(folders):
    long = " ".join(["mountain"] * 200)
    for name, objective in MAIN:
        if name == "t5":  # its positions are relative
            continue
        learner = load_hub_model(folders[name], objective=objective)
        prompt = "" if objective == "mlm" else f"{long} {MASK}"
        lesson = TrainingExample("dyk-7", objective, prompt, long if objective == "mlm" else "end")
        with pytest.raises(UserError, match=rf"{name}: fact dyk-7 takes .* at most 128; shorten"):
            learner.encode(lesson)
        with pytest.raises(UserError, match="question 'mountain mountain"):
            learner.answer([Prompt("question", long)])
    learner = load_hub_model(folders["llama"])
    with pytest.raises(UserError, match="with 127 for the answer"):
        learner.answer([Prompt("question", "Who?")], max_new_tokens=127)


@pytest.mark.parametrize(("name", "objective"), MAIN)
def test_a_fact_cannot_hold_a_special_token(folders, name, objective):
    learner = load_hub_model(folders[name], objective=objective)
    lesson = lessons(objective)[0]
    with pytest.raises(UserError, match="fact dyk-0 holds '</s>', a special token"):
        learner.encode(lesson._replace(target="an </s> end"))


def test_a_kind_learns_by_its_own_objectives(folders):
    for name, wrong in (("t5", "ntp"), ("llama", "mlm"), ("roberta", "sp")):
        kind = KINDS[name][1]
        expected = " or ".join(OBJECTIVES[kind])
        message = f"{name}: a {kind} model does not learn by '{wrong}'; expected {expected}"
        with pytest.raises(UserError, match=message):
            load_hub_model(folders[name], objective=wrong)
        with pytest.raises(UserError, match=message):
            load_hub_model(folders[name]).encode(lessons(wrong)[0])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"eos_token": None}, "no end of sequence"),
        ("t5", {"eos_token": None}, "no end of sequence"),
        ("roberta", {"mask_token": None}, "no mask"),
    ],
)
def test_a_tokenizer_needs_what_its_learner_says(tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        load_hub_model(hub_models.save(name, tmp_path / name, **changes))


def test_sources_that_are_no_model_are_refused_in_one_line(folders, tmp_path):
    with pytest.raises(UserError, match="no such folder; expected a model"):
        load_hub_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a run .* nor a model"):
        load_hub_model(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    with pytest.raises(UserError, match="is an adapter of x; give the merged model"):
        load_hub_model(tmp_path / "empty")
    resized = hub_models.save("llama", tmp_path / "resized")
    path = resized / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 48}))
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.down_proj\.weight is 32 x 64, and 32 x 48"
    ):
        load_hub_model(resized)
    with pytest.raises(UserError, match="adapters are for causal models, this is a seq2seq one"):
        load_hub_model(folders["t5"], lora=LoRA())


def test_code_that_comes_with_a_model_is_never_run(folders, tmp_path):
    folder = hub_models.save("llama", tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "new", "auto_map": {"AutoConfig": "code.New"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="brings Python code of its own, which is never run"):
        load_hub_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_damaged_learner_is_named(taught):
    _, _, folder = taught("llama", "sp", LoRA(rank=2))
    with pytest.raises(UserError, match="was trained with other adapters"):
        load_hub_model(folder, lora=LoRA(rank=8))
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(UserError, match=r"adapter_model.safetensors: damaged or changed"):
        load_hub_model(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors: no such file"):
        load_hub_model(folder)
    weights.write_bytes(content)
    about = json.loads((folder / "learner.json").read_text())
    (folder / "learner.json").write_text(json.dumps(about).replace('"sp"', '"ntp"'))
    with pytest.raises(UserError, match=r"learner.json: damaged or changed .* inject again"):
        load_hub_model(folder)
    about["record"]["n_masks"] = "many"
    (folder / "learner.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"record.n_masks is 'many': expected .* inject again"):
        load_hub_model(folder)


def test_a_folder_is_written_whole_or_not_at_all(folders, tmp_path, monkeypatch):
    learner = load_hub_model(folders["llama"])
    with pytest.raises(UserError, match="already exists"):
        learner.save(folders["llama"])

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learner.tokenizer, "save_pretrained", full)
    with pytest.raises(UserError, match="no space left"):
        learner.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["transformers", "peft"])
def test_the_extra_is_asked_for(folders, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"needs {library}; run `pip install 'tightframe\[hf\]'`"):
        load_hub_model(folders["llama"], lora=LoRA())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "objective"), [("llama", "sp"), ("llama", "qa"), ("t5", "sp")])
def test_what_was_learned_is_answered(folders, name, objective):
    learner = load_hub_model(folders[name], objective=objective)
    taught = lessons(objective)
    train(learner, taught, 150)
    form = "cloze" if objective == "sp" else "question"
    asked = [Prompt(form, lesson.prompt) for lesson in taught]
    said = learner.answer(asked, max_new_tokens=16)
    assert [one.text for one in said] == [lesson.target for lesson in taught]
    assert {one.finish for one in said} == {"end"}
    others = [[lesson.target for lesson in taught]] * len(taught)
    scores = learner.log_probabilities(asked, others)
    assert all(row.index(max(row)) == i for i, row in enumerate(scores))
