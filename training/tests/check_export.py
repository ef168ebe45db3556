"""Compares our logits with those of the real `transformers`, both ways.

    cargo run --release -p synod-training --example export_and_logits -- export TEXT FOLDER
    python3 training/tests/check_export.py compare FOLDER          # models that we wrote

    python3 training/tests/check_export.py make OTHER              # models that the library writes
    cargo run --release -p synod-training --example export_and_logits -- import OTHER
    python3 training/tests/check_export.py compare OTHER

Needs torch and transformers (4.56 or later knows Apertus). Prints one JSON object a model; exits with 1 where logits differ
by more than 1e-4, where tokens differ at all, or where the library finds weights missing or left over.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def make(folder):
    """Random models with gains and xIELU scalars away from their initial values, one of them in several bf16 files."""
    torch.manual_seed(1)
    sizes = dict(vocab_size=256, hidden_size=96, intermediate_size=208, num_hidden_layers=3, num_attention_heads=6,
                 num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-6, eos_token_id=0, bos_token_id=0,
                 pad_token_id=None)
    llama = transformers.LlamaConfig(**sizes, tie_word_embeddings=True)
    untied = transformers.LlamaConfig(**sizes, tie_word_embeddings=False)
    apertus = transformers.ApertusConfig(**sizes, tie_word_embeddings=False)
    cases = [
        ("llama", transformers.LlamaForCausalLM(llama), torch.float32, "1GB"),
        ("llama-untied-f16", transformers.LlamaForCausalLM(untied), torch.float16, "1GB"),
        ("apertus", transformers.ApertusForCausalLM(apertus), torch.float32, "1GB"),
        ("apertus-bf16-sharded", transformers.ApertusForCausalLM(apertus), torch.bfloat16, "200KB"),
    ]
    for name, model, precision, shard in cases:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.to(precision).save_pretrained(os.path.join(folder, name, "model"), max_shard_size=shard)


def compare(folder):
    good = True
    for name in sorted(os.listdir(folder)):
        if os.path.isfile(os.path.join(folder, name, "logits.json")):
            good &= compare_one(name, os.path.join(folder, name))
    return good


def compare_one(name, folder):
    path = os.path.join(folder, "model")
    model, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    with open(os.path.join(folder, "logits.json"), encoding="utf-8") as file:
        cases = json.load(file)
    tokenizer = AutoTokenizer.from_pretrained(path) if os.path.isfile(os.path.join(path, "tokenizer.json")) else None

    greatest, tokens_equal = 0.0, True
    for case in cases:
        if tokenizer is not None:
            tokens = tokenizer(case["text"])["input_ids"]
            tokens_equal &= tokens == case["tokens"] and tokenizer.decode(tokens) == case["text"]
        with torch.no_grad():
            theirs = model(torch.tensor([case["tokens"]])).logits[0]
        ours = torch.tensor(case["logits"]).reshape(theirs.shape)
        greatest = max(greatest, (theirs - ours).abs().max().item())
    loaded = not any(loading[key] for key in loading)
    good = greatest <= 1e-4 and tokens_equal and loaded
    print(json.dumps({
        "model": name,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "files": sum(file.endswith(".safetensors") for file in os.listdir(path)),
        "loading": {key: sorted(map(str, value)) for key, value in loading.items() if value},
        "tokens_equal": tokens_equal if tokenizer is not None else None,
        "logits_up_to": round(theirs.abs().max().item(), 3),
        "greatest_logit_difference": greatest,
        "good": good,
    }))
    return good


if __name__ == "__main__":
    command, where = sys.argv[1:]
    if command == "make":
        make(where)
    else:
        sys.exit(0 if compare(where) else 1)
