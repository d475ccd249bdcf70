"""Texts with noisy labels, and the recurrent network that the claims train on them."""

import re

import numpy as np
import torch
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]


class TextClassifier(nn.Module):
    """LSTM of 64 units over token ids, whose last state decides; 0 stands for no token, and comes first."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(tokens))[0][:, -1])


def _split(X: Tensor, truth: Tensor, n_noisy: int, n_clean: int, seed: int) -> tuple[Split, Split, Split]:
    """Shuffled: noisy training texts with three labels in ten flipped, clean ones, and test texts."""
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(len(X)))
    X, truth = X[order], truth[order]
    flipped = torch.from_numpy(rng.random(n_noisy) < 0.3)
    noisy, end = truth[:n_noisy], n_noisy + n_clean
    labels = torch.where(flipped, 1 - noisy, noisy)
    return (X[:n_noisy], labels), (X[n_noisy:end], truth[n_noisy:end]), (X[end:], truth[end:])


def keyword_texts(seed: int) -> tuple[Split, Split, Split]:
    """Twelve tokens of twenty, of which up to three are the keyword; the class is the parity of their number."""
    rng = np.random.default_rng(100 + seed)
    X, counts = rng.integers(2, 20, size=(5500, 12)), rng.integers(0, 4, 5500)
    for row, count in zip(X, counts, strict=True):
        row[rng.choice(12, count, replace=False)] = 1
    return _split(torch.from_numpy(X), torch.from_numpy(counts % 2), 4000, 500, seed)


def emails(seed: int) -> tuple[Split, Split, Split]:
    """The first 16 frequent words of SpamAssassin's e-mails, and whether they are spam."""
    from paperworks.datasets import load_spam_assassin

    data = load_spam_assassin()
    texts = [re.findall(r"[a-z]+", text.lower())[:200] for text in data.data]
    words, counts = np.unique([word for text in texts for word in text], return_counts=True)
    number = {str(word): i + 1 for i, word in enumerate(words[np.argsort(-counts, kind="stable")[:1000]])}
    X = np.zeros((len(texts), 16), dtype=np.int64)
    for row, text in zip(X, texts, strict=True):
        known = [number[word] for word in text if word in number][:16]
        row[16 - len(known) :] = known
    return _split(torch.from_numpy(X), torch.from_numpy(np.asarray(data.target)).long(), 2000, 500, seed)
