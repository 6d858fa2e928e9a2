"""Text to token shards.

`stories` generates text whose next-token distribution is known (`grammar` has its rules), `sources`
and `readers` read text, `splits` chooses what is for validation and encodes it, `blocks` makes
blocks of the tokens, `shards` reads them from disk, and `tokenization` is the way through, as
`options` asks for it. `model_tokenizer` loads a model's own tokenizer as transformers does.
`shuffle` permutes the labels of a split, and `shared_vocabulary` says which labels two tokenizers
have in common.
"""
