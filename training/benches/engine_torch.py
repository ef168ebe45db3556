"""The model of `engine.rs` in PyTorch on the CPU: same shapes, same batch, same threads; prints one JSON object.

    python3 engine_torch.py LAYERS HEADS WIDTH HIDDEN VOCABULARY ROWS LENGTH STEPS THREADS {f32|bf16} {eager|compile}

Llama-style: RMSNorm, rotary positions in the half-split form, SwiGLU, tied head; attention through
`scaled_dot_product_attention`, AdamW with `fused=True`. bf16 is autocast over f32 weights.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    def __init__(self, heads, width, hidden):
        super().__init__()
        self.heads = heads
        self.attention_norm = torch.nn.Parameter(torch.ones(width))
        self.query_key_value = torch.nn.Linear(width, 3 * width, bias=False)
        self.attention_out = torch.nn.Linear(width, width, bias=False)
        self.hidden_norm = torch.nn.Parameter(torch.ones(width))
        self.gate_up = torch.nn.Linear(width, 2 * hidden, bias=False)
        self.down = torch.nn.Linear(hidden, width, bias=False)

    def forward(self, x, cosines, sines):
        rows, length, width = x.shape
        normed = F.rms_norm(x, (width,), self.attention_norm, 1e-5)
        qkv = self.query_key_value(normed).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key = (rotate(part, cosines, sines) for part in (qkv[0], qkv[1]))
        mixed = F.scaled_dot_product_attention(query, key, qkv[2].contiguous(), is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(rows, length, width))
        normed = F.rms_norm(x, (width,), self.hidden_norm, 1e-5)
        gate, up = self.gate_up(normed).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cosines, sines):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1).to(x.dtype)


class Model(torch.nn.Module):
    def __init__(self, layers, heads, width, hidden, vocabulary, length):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, width)
        self.blocks = torch.nn.ModuleList(Block(heads, width, hidden) for _ in range(layers))
        self.norm = torch.nn.Parameter(torch.ones(width))
        torch.nn.init.normal_(self.embedding.weight, std=0.02)
        half = width // heads // 2
        angles = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(half).float() / half))
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosines, self.sines)
        x = F.rms_norm(x, (x.shape[-1],), self.norm, 1e-5)
        logits = F.linear(x, self.embedding.weight)
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.view(-1))


def main(arguments):
    layers, heads, width, hidden, vocabulary, rows, length, steps, threads = map(int, arguments[:9])
    precision, mode = arguments[9:]
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Model(layers, heads, width, hidden, vocabulary, length)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if mode == "compile" else model
    walls, processor = [], []
    for step in range(steps + 2):
        tokens = torch.randint(vocabulary, (rows, length + 1))
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = run(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        if step >= 2:  # the first two compile and warm up
            walls.append(time.perf_counter() - wall)
            processor.append(time.process_time() - cpu)
    median = lambda values: sorted(values)[len(values) // 2]
    tokens = rows * length
    print(json.dumps({
        "engine": f"pytorch {torch.__version__} {precision} {mode}",
        "parameters": parameters,
        "loss": round(loss.item(), 4),
        "tokens_per_second": round(tokens / median(walls), 1),
        "tokens_per_cpu_second": round(tokens / median(processor), 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))


if __name__ == "__main__":
    main(sys.argv[1:])
