"""Text to token shards.

`stories` generates text whose next-token distribution is known, `sources` reads text, `splits`
chooses what is for validation and encodes it, `blocks` makes blocks of the tokens, `tokens`
keeps them on disk, and `build` is the way through. `model_tokens` goes that way with a model's own
tokenizer, which `model_tokenizer` loads as transformers does. `groups` and `shuffle` deal out the
documents and the labels of a split, and `shared` says which labels two tokenizers have in common.
"""
