"""Train a small Llama whose first position becomes an attention sink, for docs/guide/measure.md.

    python docs/guide/attention_sink.py tokens/austen austen-llama

takes packed token shards and writes a Hugging Face folder; about six minutes on one core.
"""

import sys

import torch
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

import tightframe as tf

BLOCK, STEPS, RATE, END = 128, 744, 3e-3, "<|endoftext|>"


def main(tokens: str, out: str) -> None:
    """Blocks of 127 tokens after a beginning-of-sequence token, 16 a step."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shards = tf.TokenShards.open(tokens)
    tokenizer, split = shards.tokenizer, shards.split("train")
    bos = tokenizer.token_to_id(END)
    flat = split.rows(range(split.n_blocks))[0].flatten()
    n = len(flat) // (BLOCK - 1)
    blocks = torch.cat([torch.full((n, 1), bos), flat[: n * (BLOCK - 1)].view(n, -1)], 1)
    config = LlamaConfig(
        vocab_size=shards.vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=bos,
        eos_token_id=bos,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(STEPS):
        for group in optimizer.param_groups:  # warm-up, then a fifth of the steps down to 0
            group["lr"] = RATE * min(1, step / 100, (1 - step / STEPS) / 0.2)
        batch = blocks[torch.randint(n, (16,))]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"step {step + 1} of {STEPS}: loss {loss.item():.3f}", flush=True)
    tokenizer.post_processor = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, bos)])
    model.save_pretrained(out)
    tokenizer.save(f"{out}/tokenizer.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
