"""A tiny configuration of each causal class of transformers, by what its sizes are called."""

import inspect
import re

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig

from tiny_models import enlarged

V = 40
POSITIONS = 24

# What a size becomes by its name; the first pattern that fits decides. Smaller ones are kept.
SIZES = [
    (r"^(type_vocab_size|topk_group|n_groups?|num_expert_group|num_experts_per_tok(en)?)$", 1),
    (r"^(moe_top_?k|moe_k|mamba_n_groups|num_shared_experts|n_shared_experts)$", 1),
    (r"^(num_kv_shared_layers|first_k_dense_replace)$", 0),
    (r"vocab", V),
    (r"(^|_)(max_position_embeddings|n_positions|max_seq_len|n_ctx|context_length)$", POSITIONS),
    (r"^max_(source|target)_positions$", POSITIONS),
    (r"(^|_)(num_hidden_layers|n_layers?|num_layers|num_global_layers|num_blocks|depth)$", 2),
    (r"(encoder|decoder)_layers$", 2),
    (r"(num_key_value_heads|kv_n_heads|num_kv_heads|num_(key|value)_heads|query_groups)$", 2),
    (r"(attention_heads|n_heads?|num_heads)$", 2),
    (r"(rotary_dim|qk_rope_head_dim)$", 4),
    (r"^hidden_size_per_layer_input$", 8),
    (r"(head_dim|^d_head|kv_channels|d_kv|dim_head|attention_head_size|headdim|lora_rank)$", 8),
    (r"(intermediate_size|ffn_dim|d_ff|dim_ff|dff|ffn_hidden_size|n_inner|d_inner)$", 32),
    (r"(feed_forward_size|intermediate_size_mlp|mlp_dim)$", 32),
    (r"(hidden_size|d_model|n_embd|^dim|emb_dim|embedding_size|embedding_dim)$", 16),
    (r"(word_embed_proj_dim|attention_hidden_size|lru_width|embed_dim)$", 16),
    (r"(routed_experts|num_experts|num_local_experts|zero_expert_num)$", 4),
]
# What is no number by default, but is needed.
MISSING = {
    "head_dim": 8,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
}


class Blind(Gemma3nVisionConfig):
    """The configuration of a vision tower that holds nothing; Gemma 3n's own needs timm.

    Of text, Gemma 3n takes nothing but the tokens' numbers from it.
    """

    model_type = "gemma3n_blind"


class BlindTower(transformers.PreTrainedModel):
    """The tower of `Blind`."""

    config_class = Blind

    def __init__(self, config):
        super().__init__(config)
        self.post_init()


transformers.AutoModel.register(Blind, BlindTower)

GEMMA3N_TEXT = {"intermediate_size": 32, "activation_sparsity_pattern": [0.0, 0.0]}
# Those whose own defaults do not fit each other: the text model that they are made of.
OF_TEXT = {
    "gemma4_assistant": "gemma4_text",
    "gemma4_unified_assistant": "gemma4_unified_text",
}
# What follows from more than one of these.
SPECIAL = {
    "blt": {
        "encoder_config": {"hidden_size_global": 16},
        "decoder_config": {"hidden_size_global": 16},
        "patching_threshold": 3.0,  # so that patches are of one byte and of several
    },
    "codegen": {"n_head": 4},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 1, 1],
            }
        },
    },
    "dbrx": {"attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "dots3_note": {
        "vision_config": {
            "adapter_in_dim": 16,
            "adapter_out_dim": 16,
            "mlp_layer_types": ["dense", "dense"],
        },
        "audio_config": {"adapter_input_size": 16, "adapter_out_dim": 16},
    },
    "gemma3n": {"text_config": GEMMA3N_TEXT, "vision_config": Blind(vocab_size=1, vocab_offset=V)},
    "gemma3n_text": GEMMA3N_TEXT,
    "gemma4_assistant": {
        "text_config": {
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "backbone_hidden_size": 16,
    },
    "gemma4_unified_assistant": {
        "text_config": {
            "num_kv_shared_layers": 1,
            "layer_types": ["full_attention", "full_attention"],
        },
        "backbone_hidden_size": 16,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"qk_nope_head_dim": 8, "qk_head_dim": 12, "head_dim": 4, "moe_topk": 2},
    "mamba2": {"num_heads": 4},
    "mimo_v2_flash": {"num_key_value_heads": 1},
    "nemotron_h": {"layers_block_type": ["mamba", "attention"]},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local"] * 2},
    "xlm": {"causal": True},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "num_hidden_layers": 3,
        "attention_hidden_size": 32,
        "attention_head_dim": 16,
    },
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "n_mamba_heads": 4},
}


# Classes that are made of a part of their configuration.
DECODERS = {"musicgen": "MusicgenForCausalLM", "musicgen_melody": "MusicgenMelodyForCausalLM"}


def tiny_model(model_type):
    """Return the causal model of a tiny configuration, large enough for everything to matter."""
    config = tiny_config(model_type)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model_type in DECODERS:
            model = getattr(transformers, DECODERS[model_type])(config.decoder)
        else:
            model = transformers.AutoModelForCausalLM.from_config(config)
        return enlarged(model.eval())


def tiny_config(model_type):
    """Return the configuration, that of a decoder where it could be an encoder."""
    kind = CONFIG_MAPPING[model_type]
    if model_type in OF_TEXT:
        made = {"text_config": _smaller(CONFIG_MAPPING[OF_TEXT[model_type]]())}
    else:
        made = _smaller(kind())
    for name, value in SPECIAL.get(model_type, {}).items():
        both = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = made[name] | value if both else value
    return kind(**made)


def _smaller(config):
    known = inspect.signature(type(config).__init__).parameters
    names = {*known, *getattr(type(config), "__dataclass_fields__", {})}
    made = {"is_decoder": True} if "is_decoder" in names else {}
    stored = config.to_dict()
    for name in sorted(names):
        own = name in stored and not isinstance(stored[name], dict)
        value = stored[name] if own else getattr(config, name, None)
        if isinstance(value, transformers.PretrainedConfig):
            made[name] = {**_smaller(value), "model_type": value.model_type}
        elif value is None and name in MISSING:
            made[name] = MISSING[name]
        elif isinstance(value, int) and not isinstance(value, bool):
            if name.endswith(("_id", "_index")):
                made |= {name: 0} if value >= V else {}
            else:
                sizes = (n for pattern, n in SIZES if re.search(pattern, name))
                made |= {name: n} if (n := next(sizes, value)) < value else {}
    return made
