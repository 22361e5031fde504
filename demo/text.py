"""Captions -> conditioning: a word-level tokenizer and a one-layer transformer encoder."""

import re

import torch
from torch import Tensor, nn

WIDTH = 128
TOKENS = 10
PAD = 0
FILLERS = frozenset({"a", "an", "the", "of"})  # dropped: "a fox on the blue background" means the same


def words(text: str) -> list[str]:
    """The words of a prompt that can carry meaning, lower case, in order."""
    return [w for w in re.findall(r"[a-z0-9']+", text.lower()) if w not in FILLERS]


class Vocabulary:
    """Word -> token. Token 0 is padding; word i of the list has token i + 1."""

    def __init__(self, known: list[str]) -> None:
        self.known = known
        self._token = {word: i + 1 for i, word in enumerate(known)}

    def tokens(self, text: str) -> tuple[list[int], list[str]]:
        """The tokens of the known words and, second, the words that were left out: unknown, or beyond 10."""
        found = words(text)
        known = [w for w in found if w in self._token]
        left_out = [w for w in found if w not in self._token] + known[TOKENS:]
        return [self._token[w] for w in known[:TOKENS]], left_out


class TextEncoder(nn.Module):
    """Tokens (B, 10), 0 = padding -> (context (B, 10, 128), pooled (B, 128))."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary_size + 1, WIDTH)
        self.position = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.1)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        context = self.norm(self.layer(self.word(tokens) + self.position.to(self.word.weight)))
        present = (tokens != PAD).unsqueeze(-1).to(context)
        pooled = (context * present).sum(1) / present.sum(1).clamp(min=1)
        return context, pooled
