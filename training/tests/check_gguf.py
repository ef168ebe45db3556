"""Compares what `node` reads from GGUF files, and writes to them, with the reference packages.

    python3 training/tests/check_gguf.py blocks > training/tests/fixtures/gguf_blocks.json
    python3 training/tests/check_gguf.py types NODE          # every type of tensor: values equal to the last bit
    python3 training/tests/check_gguf.py write NODE          # files that we write: values, bytes of Q8_0, logits
    python3 training/tests/check_gguf.py perplexity NODE FILE.gguf TEXT

NODE is the binary. Needs gguf, torch, transformers, safetensors and numpy from PyPI. `gguf` is llama.cpp's own package: it
reads the files and decodes their blocks; `transformers` runs the models. Prints one JSON object a case; exits with 1 where
values differ at all, or perplexities by more than 1e-4 of them, or tokens.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K, Type.Q6_K]
# Where the halves that are scales and minima stand in a block of random bytes, and how large they may be.
SCALES = {Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}


def encoded(values, kind, rng):
    """Rows of values as the type's bytes; of super-blocks, which the package cannot write, random ones with small scales."""
    if kind not in SCALES:
        return quantize(values, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (values.size // block, size), dtype=np.uint8)
    for place in SCALES[kind]:
        scales = (0.002 * rng.random(len(blocks)) + 0.0001).astype(np.float16)
        blocks[:, place:place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(*values.shape[:-1], -1)


def blocks():
    rng = np.random.default_rng(7)
    cases = []
    for kind in TYPES:
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        values = rng.standard_normal((2, max(block, 4))).astype(np.float32)
        data = encoded(values, kind, rng)
        decoded = dequantize(data, kind).astype(np.float32).reshape(-1)
        cases.append({
            "type": kind.name,
            "bytes": data.view(np.uint8).reshape(-1).tobytes().hex(),
            "bits": [int(bits) for bits in decoded.view(np.uint32)],
        })
    print(json.dumps({"made_by": f"check_gguf.py blocks, gguf {version('gguf')}, numpy {np.__version__}", "cases": cases}))


def version(package):
    from importlib.metadata import version as of
    return of(package)


SHAPE = dict(layers=2, width=256, heads=8, kv_heads=2, hidden=512, context=128, rows=300)


def tensors_of(rng, tied):
    width, hidden, key = SHAPE["width"], SHAPE["hidden"], SHAPE["width"] // SHAPE["heads"] * SHAPE["kv_heads"]
    shapes = {"token_embd.weight": (SHAPE["rows"], width)}
    for layer in range(SHAPE["layers"]):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": (width,), "attn_q": (width, width), "attn_k": (key, width), "attn_v": (key, width),
            "attn_output": (width, width), "ffn_norm": (width,), "ffn_gate": (hidden, width), "ffn_up": (hidden, width),
            "ffn_down": (width, hidden)}.items()}
    shapes["output_norm.weight"] = (width,)
    if not tied:
        shapes["output.weight"] = (SHAPE["rows"], width)
    values = lambda shape: (1.0 if len(shape) == 1 else 0.0) + 0.08 * rng.standard_normal(shape)
    return {name: values(shape).astype(np.float32) for name, shape in shapes.items()}


def alphabet():
    """GPT-2's 256 characters, in the order of its vocabulary."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return [names[byte] for byte in plain + others]


def write_file(path, kind, rng, tied=True):
    """A random model with every matrix of this type; the decoded values by name."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(SHAPE["context"])
    writer.add_embedding_length(SHAPE["width"])
    writer.add_block_count(SHAPE["layers"])
    writer.add_feed_forward_length(SHAPE["hidden"])
    writer.add_head_count(SHAPE["heads"])
    writer.add_head_count_kv(SHAPE["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(SHAPE["width"] // SHAPE["heads"])
    writer.add_vocab_size(SHAPE["rows"])
    letters = alphabet()
    pairs = [(a, b) for a in letters[:60:3] for b in letters[1:60:7]][:SHAPE["rows"] - 257]
    tokens = letters + [a + b for a, b in pairs] + ["<|endoftext|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges([f"{a} {b}" for a, b in pairs])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    decoded = {}
    for name, values in tensors_of(rng, tied).items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
            decoded[name] = values
            continue
        data = encoded(values, kind, rng)
        decoded[name] = dequantize(data, kind).astype(np.float32).reshape(values.shape)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return decoded


THEIRS = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
          "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(ours):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if ours in whole:
        return whole[ours]
    _, _, layer, rest = ours.split(".", 3)
    return f"blk.{layer}.{THEIRS[rest.removesuffix('.weight')]}.weight"


def as_halves(name, values):
    """Rows of a query or key matrix in Hugging Face's order."""
    heads = {"attn_q": SHAPE["heads"], "attn_k": SHAPE["kv_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return values
    return values.reshape(heads, values.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)


def read_folder(folder):
    from safetensors.numpy import load_file
    return load_file(os.path.join(folder, "model.safetensors"))


def run(node, *arguments):
    done = subprocess.run([node, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"node {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def report(**fields):
    print(json.dumps(fields | {"gguf": version("gguf")}), flush=True)
    return fields["equal"]


def types(node):
    good = True
    for at, kind in enumerate(TYPES):
        with tempfile.TemporaryDirectory() as folder:
            path, target = os.path.join(folder, "model.gguf"), os.path.join(folder, "model")
            decoded = write_file(path, kind, np.random.default_rng(at), tied=at % 2 == 0)
            run(node, "export", path, target)
            ours = read_folder(target)
            equal = sorted(map(gguf_name, ours)) == sorted(decoded) and all(
                np.array_equal(values, as_halves(gguf_name(name), decoded[gguf_name(name)]))
                for name, values in ours.items())
            good &= report(type=kind.name, tensors=len(decoded), equal=bool(equal))
    return good


def write(node):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    good = True
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        path, target = os.path.join(folder, "model.gguf"), os.path.join(folder, "model")
        decoded = write_file(path, Type.F32, rng, tied=False)
        run(node, "export", path, target)
        for kind in [Type.F32, Type.F16, Type.BF16, Type.Q8_0]:
            again = os.path.join(folder, f"{kind.name}.gguf")
            run(node, "export", target, again, "--precision", kind.name.lower())
            reader = gguf.GGUFReader(again)
            equal = sorted(tensor.name for tensor in reader.tensors) == sorted(decoded)
            for tensor in reader.tensors:
                values = decoded[tensor.name]
                expected = quantize(values, kind) if values.ndim > 1 else values
                equal &= tensor.data.tobytes() == expected.tobytes()
            good &= report(written=kind.name, bytes=os.path.getsize(again), equal=bool(equal))
        logits = {}
        for name, arguments in {"folder": (target, {}), "file": (folder, {"gguf_file": "F32.gguf"})}.items():
            model = AutoModelForCausalLM.from_pretrained(arguments[0], dtype=torch.float32, **arguments[1])
            tokenizer = AutoTokenizer.from_pretrained(arguments[0], **arguments[1])
            tokens = tokenizer("Alas, poor Yorick! 1603; été\n")["input_ids"]
            with torch.no_grad():
                logits[name] = (tokens, model(torch.tensor([tokens])).logits)
        (tokens, theirs), (others, ours) = logits["folder"], logits["file"]
        difference = float((theirs - ours).abs().max()) if tokens == others else math.inf
        good &= report(loaded_by="transformers", tokens=len(tokens), largest_difference=difference, equal=difference <= 1e-5)
    return good


def perplexity(node, path, text):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    ours = json.loads(run(node, "evaluate", path, "--data", text, "--json"))
    folder, name = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    if b"smollm" in bytes(gguf.GGUFReader(path).fields["tokenizer.ggml.pre"].parts[-1]):
        # The library takes every such tokenizer for GPT-2's; SmolLM's own splits digits off first.
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
        words = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
        tokenizer.backend_tokenizer.pre_tokenizer = words
    with open(text, encoding="utf-8") as file:
        tokens = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, :-1].double()
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:])).item()
    same = ours["tokens"] == len(tokens) - 1 and abs(ours["perplexity"] / math.exp(loss) - 1) <= 1e-4
    return report(model=name, text=os.path.basename(text), tokens=len(tokens), our_tokens=ours["tokens"],
                  perplexity=math.exp(loss), ours=ours["perplexity"], transformers=transformers.__version__,
                  torch=torch.__version__, equal=same)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["blocks"]:
            blocks()
        case ["types", node]:
            sys.exit(not types(node))
        case ["write", node]:
            sys.exit(not write(node))
        case ["perplexity", node, path, text]:
            sys.exit(not perplexity(node, path, text))
        case _:
            sys.exit(__doc__)
