"""Loads an exported model with the real `transformers` and compares its logits and tokens with ours.

    cargo run --release -p synod-training --example export_and_logits -- TEXT FOLDER
    python3 training/tests/check_export.py FOLDER

Needs torch (CPU) and transformers. On Debian 12: `apt-get install --no-install-recommends python3-torch`, then
`pip install --target DIR transformers==4.40.2 numpy==1.24.4` and run with PYTHONPATH=DIR /usr/bin/python3.
Prints one JSON object; exits with 1 where logits differ by more than 1e-4 or tokens differ at all.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(folder):
    model, loading = AutoModelForCausalLM.from_pretrained(os.path.join(folder, "model"), output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(folder, "model"))
    with open(os.path.join(folder, "logits.json"), encoding="utf-8") as file:
        cases = json.load(file)

    greatest, tokens_equal = 0.0, True
    for case in cases:
        tokens = tokenizer(case["text"])["input_ids"]
        tokens_equal &= tokens == case["tokens"] and tokenizer.decode(tokens) == case["text"]
        with torch.no_grad():
            theirs = model(torch.tensor([case["tokens"]])).logits[0]
        ours = torch.tensor(case["logits"]).reshape(theirs.shape)
        greatest = max(greatest, (theirs - ours).abs().max().item())

    prompt = torch.tensor([cases[0]["tokens"]])
    sample = model.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=0)
    good = greatest <= 1e-4 and tokens_equal and not any(loading[key] for key in loading)
    print(json.dumps({
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "loading": {key: list(value) for key, value in loading.items()},
        "tokens_equal": tokens_equal,
        "greatest_logit_difference": greatest,
        "sample": tokenizer.decode(sample[0]),
        "good": good,
    }))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
