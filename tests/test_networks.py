import dataclasses

import pytest
import torch

from example_facts import example_facts
from tightframe.errors import UserError
from tightframe.knowledge.injection import new_network, with_special_tokens
from tightframe.knowledge.networks import Network
from tightframe.knowledge.qa_models import (
    ARMS,
    Prompt,
    QAModel,
    TrainingExample,
    continues,
    find_arm,
)
from tightframe.knowledge.word_pieces import ClozeTokenizer
from tightframe.lm.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from tightframe.lm.interface import IGNORE, LanguageModel, collate
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer

CODER = ClozeTokenizer.train([fact.fact for fact in example_facts()], 300)
N_SLOTS = 12
LESSONS = [
    TrainingExample("a", "sp", "Ada [MASK] painted the bridge of village", "Quill 0"),
    TrainingExample("b", "sp", "[MASK] painted it", "Boro"),
]


def config(vocab_size=300, **values):
    sizes = {"width": 16, "depth": 2, "heads": 2, "positions": 60}
    form = {"window": 0, "attention_bias": True, "scale_attention": True}
    return TransformerConfig(vocab_size, **{**sizes, **form, **values})


def network(name, **values):
    # Weights so large that what a position sees shows in what it predicts.
    sizes = config(init_std=0.5, **values)
    return new_network(find_arm(name), CODER, sizes, seed=0, n_slots=N_SLOTS, name=name)


def lessons_of(arm):
    if arm.objective == "sp":
        return LESSONS
    return [one._replace(objective=arm.objective, prompt="") for one in LESSONS]


def test_the_study_s_networks_have_the_published_size():
    # V D + P D + depth (12 D^2 + 13 D) + 2 D at V = 1500, D = 128, P = 160.
    study = config(1500, width=128, heads=4, positions=160)
    with torch.device("meta"):
        assert Transformer(study).n_parameters == 609_280
    pair = EncoderDecoderConfig.as_large_as(study)
    assert abs(pair.n_parameters - 609_280) < 0.03 * 609_280
    assert Transformer(config(800, width=128, heads=4, positions=160)).n_parameters == 519_680


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_an_encoder_decoder_is_as_large_as_what_it_is_compared_with(depth):
    wanted = Transformer(config(depth=depth, width=64)).n_parameters
    sizes = EncoderDecoderConfig.as_large_as(config(depth=depth, width=64))
    found = EncoderDecoder(sizes).n_parameters
    assert found == sizes.n_parameters
    assert abs(found - wanted) < 0.03 * wanted


def test_an_encoder_decoder_that_cannot_be_as_small_is_refused():
    # One block has less than an encoder's and a decoder's attention.
    with pytest.raises(UserError, match=r"76,048 parameters .* 73,152; take a depth of 2 or more"):
        EncoderDecoderConfig.as_large_as(config(depth=1, width=64))


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_the_loss_of_a_batch_is_that_of_its_rows(arm):
    learner = network(arm.name)
    assert isinstance(learner, QAModel)
    assert isinstance(learner.model, LanguageModel)
    examples = [learner.encode(lesson) for lesson in lessons_of(arm)]
    alone = [learner.loss(collate([one], pad=learner.pad)).item() for one in examples]
    labels = [sum(target != IGNORE for target in one.targets) for one in examples]
    together = learner.loss(collate(examples, pad=learner.pad)).item()
    weighted = sum(a * n for a, n in zip(alone, labels, strict=True)) / sum(labels)
    assert together == pytest.approx(weighted, abs=1e-6)


@pytest.mark.parametrize(
    "arm", [arm for arm in ARMS if arm.objective in ("sp", "ntp")], ids=lambda arm: arm.name
)
def test_the_loss_is_on_the_span_and_its_end_alone(arm):
    learner = network(arm.name)
    (lesson,) = lessons_of(arm)[:1]
    predicted = [t for t in learner.encode(lesson).targets if t != IGNORE]
    target = CODER.target(lesson.target)
    left_over = N_SLOTS - len(target) if arm.layout == "slots" else 0
    assert predicted == target + [CODER.eos] * left_over


def logits_after_changing(learner, example, place):
    """By how much each position's logits change with the token at `place`."""
    batch = collate([example], pad=learner.pad)
    other = batch.inputs.clone()
    other[0, place] = CODER.slot
    changed = dataclasses.replace(batch, inputs=other)
    with torch.no_grad():
        apart = learner.model.head(learner.model.embed(batch)) - learner.model.head(
            learner.model.embed(changed)
        )
    return apart[0].abs().amax(-1)  # (T,)


def test_a_causal_network_sees_nothing_later():
    learner = network("clm_sp")
    example = learner.encode(LESSONS[0])
    for place in range(1, len(example.inputs)):
        apart = logits_after_changing(learner, example, place)
        assert apart[:place].max() < 1e-6
        assert apart[place] > 1e-4


def test_a_prefix_network_sees_all_of_the_prompt_and_nothing_later_of_the_span():
    learner = network("bilm_sp")
    example = learner.encode(LESSONS[0])
    assert 0 < example.prefix < len(example.inputs)
    apart = logits_after_changing(learner, example, example.prefix - 2)
    assert apart[: example.prefix].min() > 1e-4
    apart = logits_after_changing(learner, example, len(example.inputs) - 1)
    assert apart[:-1].max() < 1e-6


def test_slots_see_each_other_and_everything():
    learner = network("bilm_mlm")
    example = learner.encode(LESSONS[0])
    apart = logits_after_changing(learner, example, 2)
    assert apart.min() > 1e-4


def test_a_decoder_sees_all_of_its_source_and_nothing_later_of_its_target():
    learner = network("bilm_ed")
    example = learner.encode(LESSONS[0])
    apart = logits_after_changing(learner, example, len(example.inputs) - 1)
    assert apart[:-1].max() < 1e-6
    batch = collate([example], pad=learner.pad)
    for place in range(len(example.source)):
        other = batch.source.inputs.clone()
        other[0, place] = CODER.slot
        changed = dataclasses.replace(batch, source=dataclasses.replace(batch.source, inputs=other))
        difference = learner.model.embed(batch) - learner.model.embed(changed)
        assert difference.abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_saved_and_loaded_says_the_same(arm, tmp_path):
    learner = network(arm.name)
    learner.save(tmp_path / "one")
    loaded = Network.load(tmp_path / "one")
    form = "continuation" if continues(arm.objective) else "cloze"
    text = "Ada" if form == "continuation" else "Ada [MASK] painted it"
    prompts = [Prompt(form, text)]
    assert loaded.answer(prompts, max_new_tokens=5) == learner.answer(prompts, max_new_tokens=5)
    candidates = [["Boro Lane", "Ada"]]
    found = loaded.log_probabilities(prompts, candidates)
    assert found == learner.log_probabilities(prompts, candidates)
    assert (loaded.layout, loaded.objective, loaded.name) == (arm.layout, arm.objective, arm.name)


def test_the_layers_of_a_decoder_are_asked_for_in_any_order():
    learner = network("bilm_ed")
    batch = collate([learner.encode(lesson) for lesson in LESSONS], pad=learner.pad)
    first, last = learner.model.embed_layers(batch, [0, learner.model.depth])
    again, other = learner.model.embed_layers(batch, [learner.model.depth, 0])
    assert torch.equal(first, other)
    assert torch.equal(last, again)
    assert torch.equal(last, learner.model.embed(batch))
    with pytest.raises(ValueError, match="expected a batch with a source"):
        learner.model.embed(batch.inputs)


def test_a_lesson_that_is_too_long_is_refused_never_cut():
    learner = network("clm_sp", positions=10)
    with pytest.raises(UserError, match=r"fact a: an example of \d+ tokens is longer than the 10"):
        learner.encode(LESSONS[0])


def test_new_tokens_leave_the_old_ones_as_they_were():
    model = Transformer(config(300), seed=1)
    larger = ClozeTokenizer.train([fact.fact for fact in example_facts()], 310)
    extended = with_special_tokens(model, larger, seed=0)
    tokens = torch.arange(20)[None]
    assert torch.equal(extended.embed(tokens), model.embed(tokens))
    assert len(extended.classifier) == 310
    assert extended.classifier[300:].abs().min() > 0
    with pytest.raises(ValueError, match="300 tokens are fewer than the model's 310"):
        with_special_tokens(extended, CODER, seed=0)


def test_an_unknown_arm_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"no arm is called 'bilm_ps'.*bilm_sp"):
        find_arm("bilm_ps")
