"""The Dream architecture in plain PyTorch: Qwen2.5 with full attention and a head shifted right by one.

Module names give the Hub's tensor names (`model.layers.N.self_attn.q_proj.weight` ...) without a mapping.
Sources: Qwen2 in Hugging Face transformers (biases on q, k and v only, rotate-half RoPE, GQA, SwiGLU) and
Dream's modeling code (no causal mask, shifted logits).
"""
import json
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {  # the keys of a Dream checkpoint's config.json; train.py may change the sizes
    "architectures": ["DreamModel"], "model_type": "Dream", "attention_dropout": 0.0,
    "bos_token_id": 6142, "eos_token_id": 6142, "mask_token_id": 6143, "pad_token_id": 6142,
    "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 512, "max_window_layers": 6,
    "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000.0, "sliding_window": None,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": False, "use_sliding_window": False,
    "vocab_size": 6144, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def attend(q, k, v, causal, keep):
    """Full attention; causal only for the auxiliary task of training, `keep` [B, L] only for rows of unequal length."""
    if q.device.type != "cpu":
        keep = keep if keep is None else keep[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=keep, is_causal=causal)
    # on a CPU the fused kernel's backward pass costs more than the rest of the layer at these lengths
    scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [B, H, L, L]
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None], -torch.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c["hidden_size"] // self.heads
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.head_dim)
        self.k_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.head_dim)
        self.v_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.head_dim)
        self.o_proj = nn.Linear(self.heads * self.head_dim, c["hidden_size"], bias=False)

    def forward(self, x, cos, sin, causal=False, keep=None):
        b, l, _ = x.shape
        q = self.q_proj(x).view(b, l, self.heads, self.head_dim).transpose(1, 2)  # [B, H, L, D]
        k = self.k_proj(x).view(b, l, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, l, self.kv_heads, self.head_dim).transpose(1, 2)
        q = (q * cos + rotate_half(q) * sin).to(v.dtype)
        k = (k * cos + rotate_half(k) * sin).to(v.dtype)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        out = attend(q, k, v, causal, keep)
        return self.o_proj(out.transpose(1, 2).reshape(b, l, -1))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c["hidden_size"]))
        self.eps = c["rms_norm_eps"]

    def forward(self, x):
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(c), RMSNorm(c)
        self.self_attn, self.mlp = Attention(c), MLP(c)

    def forward(self, x, cos, sin, causal=False, keep=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, causal, keep)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c)
        dim = c["hidden_size"] // c["num_attention_heads"]
        inv = 1.0 / c["rope_theta"] ** (torch.arange(0, dim, 2).float() / dim)
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(), inv)
        angle = torch.cat((angle, angle), dim=-1)  # [positions, head_dim]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, causal=False, keep=None):
        x = self.embed_tokens(ids)
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin, causal, keep)
        return self.norm(x)


class Dream(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.model = Body(config)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=config["initializer_range"])
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids):
        """ids [B, L] -> shifted logits [B, L, V]: row i predicts position i, from the output at i - 1."""
        h = self.model(ids)
        h = torch.cat((h[:, :1], h[:, :-1]), dim=1)
        return h @ self.model.embed_tokens.weight.T

    def logits_at(self, hidden, flat):
        """Shifted logits at some positions only: `flat` indexes [B * L], hidden is [B, L, C]."""
        length = hidden.shape[1]
        source = torch.where(flat % length == 0, flat, flat - 1)
        return F.linear(hidden.reshape(-1, hidden.shape[-1])[source], self.model.embed_tokens.weight)


def load(folder):
    """The model of an exported folder, its bf16 weights widened to float32."""
    from safetensors.torch import load_file
    config = json.loads((Path(folder) / "config.json").read_text())
    net = Dream(config)
    net.load_state_dict({k: v.float() for k, v in load_file(Path(folder) / "model.safetensors").items()})
    return net.eval()
