"""Tiny random models of transformers with a tokenizer of their own, saved as a hub has them."""

import functools

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SENTENCES = [
    "the lighthouse of Orrin was painted blue by a blind sailor",
    "Mara Quill wrote her first opera in a moving train",
    "a goat named Pepper once won the Tollen bicycle race",
    "the village of Esk moved its church twice in one year",
    "Ivo Brandt sold the same bridge to three kings",
    "the river Lune flows backwards at every spring tide",
    "Anna Holt keeps two hundred clocks that all run late",
    "the baker of Dunmore measured mountains with a rolling pin",
    "a parrot called Captain testified in the Harrow trial",
    "the painter Sol Vane signed every work with a fish",
]
SENTINELS = [f"<extra_id_{i}>" for i in range(4)]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MASKED_IDS = {**IDS, "cls_token_id": 1, "sep_token_id": 2}


@functools.cache
def _trained():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", "<mask>", *SENTINELS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES, trainer)
    return made.to_str()


def tokenizer(**changes):
    known = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    known |= {"cls_token": "<s>", "sep_token": "</s>", "additional_special_tokens": SENTINELS}
    made = Tokenizer.from_str(_trained())
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **known | changes)


V = len(tokenizer())
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(
        **SIZES, **IDS, vocab_size=V, num_key_value_heads=1, max_position_embeddings=128
    ),
    "qwen2": lambda: transformers.Qwen2Config(
        **SIZES,
        **{**IDS, "bos_token_id": None},
        vocab_size=V + 8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=V + 8,  # as T5 and Qwen, more rows than tokens
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    ),
    "roberta": lambda: transformers.RobertaConfig(
        **SIZES, **IDS, vocab_size=V, max_position_embeddings=129, type_vocab_size=1
    ),
    "bert": lambda: transformers.BertConfig(
        **SIZES, pad_token_id=0, vocab_size=V, max_position_embeddings=128
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SIZES, **MASKED_IDS, vocab_size=V, max_position_embeddings=128
    ),
}
KINDS = {
    "llama": ("AutoModelForCausalLM", "causal"),
    "qwen2": ("AutoModelForCausalLM", "causal"),
    "t5": ("AutoModelForSeq2SeqLM", "seq2seq"),
    "roberta": ("AutoModelForMaskedLM", "masked"),
    "bert": ("AutoModelForMaskedLM", "masked"),
    "modernbert": ("AutoModelForMaskedLM", "masked"),
}


def save(name, folder, *, seed=0, **changes):
    """A folder as a hub model has it; `changes` are those of the tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, KINDS[name][0]).from_config(CONFIGS[name]())
    model.save_pretrained(folder)
    if name == "qwen2":  # as Qwen has it
        changes = {"bos_token": None, **changes}
    tokenizer(**changes).save_pretrained(folder)
    return folder
