"""ViT-tiny in plain PyTorch, for ``benchmarks.model_zoo``: pytorchcv has no transformer.

A. Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; the size is DeiT-Ti's (H. Touvron
et al., Training data-efficient image transformers, ICML 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIZE, PATCH = 224, 16
WIDTH, HEADS, DEPTH = 192, 3, 12
CLASSES = 1000


class Block(nn.Module):
    """Attention and a perceptron, each after a layer norm and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(WIDTH, eps=1e-6),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, WIDTH) to the same."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.before_attention(x))
        heads = qkv.reshape(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(*heads.unbind(0))
        x = x + self.project(seen.transpose(1, 2).reshape(batch, tokens, WIDTH))
        return x + self.perceptron(x)


class VisionTransformer(nn.Module):
    """(batch, 3, SIZE, SIZE) to (batch, CLASSES) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (SIZE // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The logits, read off the class token."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])
