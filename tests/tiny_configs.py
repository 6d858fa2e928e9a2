"""A tiny configuration of each causal class of transformers, by what its sizes are called."""

import inspect
import re

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

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
# What follows from more than one of these.
SPECIAL = {
    "codegen": {"n_head": 4},
    "dbrx": {"attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "gemma3n_text": {"intermediate_size": 32, "activation_sparsity_pattern": [0.0, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 4},
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


def tiny_config(model_type):
    """The configuration, a decoder where it could be an encoder."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**_smaller(kind()) | SPECIAL.get(model_type, {}))


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
