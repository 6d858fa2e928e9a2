"""Text to token shards.

`stories` generates text whose next-token distribution is known, `sources` reads text, `splits`
says which of it is for validation, `tokenizer` and `blocks` make blocks of tokens of it, `tokens`
keeps them on disk, and `build` is the way through.
"""
