"""Tiny causal language models of transformers, of random weights, for tests."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers

V = 40
POSITIONS = 24
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    **ENDS,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
HEADED = {**GROUPED, "head_dim": 8}
GPT = {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, **ENDS}
OPT = {
    "vocab_size": V,
    "hidden_size": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": POSITIONS,
    **ENDS,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A configuration, and where the model of this kind has what our code finds without names."""

    config: Callable[[], Any]
    blocks: str = "model.layers"
    norm: str = "model.norm"  # the final one; "" if there is none
    finish: Callable[[torch.Tensor], torch.Tensor] | None = None  # what is done to logits last


def softcapped(logits):
    return 0.5 * torch.tanh(logits / 0.5)


ARCHITECTURES = {
    "gpt2": Architecture(
        lambda: transformers.GPT2Config(**GPT), "transformer.h", "transformer.ln_f"
    ),
    # Its middle layer is half as wide as GPT-Neo's should be, so it isn't our Transformer.
    "gpt_neo": Architecture(
        lambda: transformers.GPTNeoConfig(
            vocab_size=V,
            hidden_size=16,
            intermediate_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=POSITIONS,
            **ENDS,
        ),
        "transformer.h",
        "transformer.ln_f",
    ),
    "gpt_neox": Architecture(
        lambda: transformers.GPTNeoXConfig(**SIZES), "gpt_neox.layers", "gpt_neox.final_layer_norm"
    ),
    "openai-gpt": Architecture(  # its norms follow its blocks; the last one is inside the last
        lambda: transformers.OpenAIGPTConfig(**GPT), "", "transformer.h.1.ln_2"
    ),
    "opt": Architecture(
        lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=16),
        "model.decoder.layers",
        "model.decoder.final_layer_norm",
    ),
    "opt_projected": Architecture(  # embeddings of 8 dimensions in a model of 16
        lambda: transformers.OPTConfig(**OPT, word_embed_proj_dim=8), "", ""
    ),
    "bloom": Architecture(
        lambda: transformers.BloomConfig(vocab_size=V, hidden_size=16, n_layer=2, n_head=2, **ENDS),
        "transformer.h",
        "transformer.ln_f",
    ),
    "mpt": Architecture(
        lambda: transformers.MptConfig(
            vocab_size=V, d_model=16, n_layers=2, n_heads=2, max_seq_len=POSITIONS, **ENDS
        ),
        "transformer.blocks",
        "transformer.norm_f",
    ),
    "falcon": Architecture(
        lambda: transformers.FalconConfig(**SIZES), "transformer.h", "transformer.ln_f"
    ),
    "llama": Architecture(lambda: transformers.LlamaConfig(**GROUPED)),
    "llama_tied": Architecture(
        lambda: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True)
    ),
    "mistral": Architecture(lambda: transformers.MistralConfig(**GROUPED, sliding_window=4)),
    "mixtral": Architecture(lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=3)),
    "qwen2": Architecture(lambda: transformers.Qwen2Config(**GROUPED)),
    "qwen3": Architecture(lambda: transformers.Qwen3Config(**HEADED)),
    "gemma2": Architecture(
        lambda: transformers.Gemma2Config(**HEADED, final_logit_softcapping=0.5), finish=softcapped
    ),
    "gemma3": Architecture(lambda: transformers.Gemma3TextConfig(**HEADED, sliding_window=4)),
    "phi": Architecture(  # its output layer has a bias
        lambda: transformers.PhiConfig(**SIZES), norm="model.final_layernorm"
    ),
    "phi3": Architecture(lambda: transformers.Phi3Config(**GROUPED)),
    "olmo2": Architecture(lambda: transformers.Olmo2Config(**GROUPED)),
    "stablelm": Architecture(lambda: transformers.StableLmConfig(**GROUPED)),
    "starcoder2": Architecture(lambda: transformers.Starcoder2Config(**GROUPED)),
    "cohere": Architecture(
        lambda: transformers.CohereConfig(**GROUPED, logit_scale=0.25),
        finish=lambda logits: 0.25 * logits,
    ),
    "granite": Architecture(
        lambda: transformers.GraniteConfig(**GROUPED, logits_scaling=8.0, embedding_multiplier=3.0),
        finish=lambda logits: logits / 8,
    ),
    "modernbert_decoder": Architecture(  # its head has a layer and a norm of its own
        lambda: transformers.ModernBertDecoderConfig(
            **SIZES, layer_types=["full_attention", "sliding_attention"], cls_token_id=0
        ),
        norm="model.final_norm",
    ),
    # Recurrent ones, and one of both kinds of blocks.
    "mamba": Architecture(
        lambda: transformers.MambaConfig(
            vocab_size=V, hidden_size=16, state_size=4, num_hidden_layers=2, **ENDS
        ),
        "backbone.layers",
        "backbone.norm_f",
    ),
    "rwkv": Architecture(
        lambda: transformers.RwkvConfig(
            vocab_size=V,
            hidden_size=16,
            attention_hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            context_length=POSITIONS,
            **ENDS,
        ),
        "rwkv.blocks",
        "rwkv.ln_out",
    ),
    "recurrent_gemma": Architecture(
        lambda: transformers.RecurrentGemmaConfig(
            **HEADED | {"num_hidden_layers": 3}, lru_width=16, logits_soft_cap=0.5
        ),
        norm="model.final_norm",
        finish=softcapped,
    ),
}


def model_of(name, seed=0):
    """A model of random weights, large enough for everything to matter."""
    model = transformers.AutoModelForCausalLM.from_config(ARCHITECTURES[name].config()).eval()
    return enlarged(model, seed)


def enlarged(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def save(name, folder, seed=0):
    """A model and its folder."""
    model = model_of(name, seed)
    model.save_pretrained(folder)
    return model


def ids(*shape):
    return torch.randint(2, V, shape, generator=torch.Generator().manual_seed(0))
