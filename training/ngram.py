"""The baseline: an interpolated Kneser-Ney n-gram model over the same tokens, with the three discounts of Chen and
Goodman (1999, "modified"), on the same training corpus. Its cost is exact, the diffusion model's is an upper bound."""
import numpy as np


class KneserNey:
    def __init__(self, ids, vocab, order=5):
        """`ids`: one stream of tokens, texts separated by the end token. order * log2(vocab) must be at most 63."""
        self.vocab, self.order = vocab, order
        self.tables = {}
        v = np.uint64(vocab)
        keys = np.zeros(len(ids) - order + 1, dtype=np.uint64)
        for k in range(order):
            keys = keys * v + ids[k:len(ids) - order + 1 + k].astype(np.uint64)
        keys, counts = np.unique(keys, return_counts=True)
        for n in range(order, 0, -1):
            of = [np.count_nonzero(counts == c) for c in (1, 2, 3, 4)]
            y = of[0] / max(1, of[0] + 2 * of[1])
            d = [c - (c + 1) * y * of[c] / of[c - 1] if of[0] and of[c - 1] else 0.5 for c in (1, 2, 3)]

            def prefix(a):
                return np.concatenate(([0], np.cumsum(a, dtype=np.int64)))
            self.tables[n] = (keys, counts, np.clip(d, 0.05, 3.0), prefix(counts),
                              [prefix(counts == 1), prefix(counts == 2), prefix(counts >= 3)])
            if n > 1:  # below the top, count in how many contexts an n-gram continues
                keys, counts = np.unique(keys % v ** np.uint64(n - 1), return_counts=True)

    def probabilities(self, row, context=()):
        """Of each token of `row` given those before it (and `context` before the first)."""
        seq = np.concatenate((np.asarray(context, dtype=np.uint64), np.asarray(row, dtype=np.uint64)))
        start, v = len(context), np.uint64(self.vocab)
        p = np.full(len(seq), 1 / self.vocab)
        for n in range(1, self.order + 1):
            keys, counts, d, total, of = self.tables[n]
            at = np.arange(n - 1, len(seq))
            history = np.zeros(len(at), dtype=np.uint64)
            for k in range(n - 1, 0, -1):
                history = history * v + seq[at - k]
            key = history * v + seq[at]
            low, high = np.searchsorted(keys, history * v), np.searchsorted(keys, (history + np.uint64(1)) * v)
            place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
            count = np.where(keys[place] == key, counts[place], 0)
            mass = total[high] - total[low]
            taken = sum(d[i] * (of[i][high] - of[i][low]) for i in range(3))
            found = mass > 0
            kept = count - np.where(count > 0, d[np.clip(count, 1, 3) - 1], 0)
            p[at] = np.where(found, (kept + taken * p[at]) / np.maximum(mass, 1), p[at])
        return p[start:]


def stream(data, eot):
    """Functions and modules of a corpus file as one stream."""
    parts = []
    for kind in ("function", "module"):
        flat, starts = data[kind], data[kind + "_starts"]
        out = np.full(len(flat) + len(starts), eot, dtype=np.uint16)
        out[np.arange(len(flat)) + np.repeat(np.arange(len(starts) - 1), np.diff(starts)) + 1] = flat
        parts.append(out)
    return np.concatenate(parts)
