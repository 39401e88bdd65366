"""Rows for training: which text, which tokens are masked, and how much each counts.

A row is one of seven things:
  prompted  a function whose signature (and docstring) stay unmasked, its end, and after the end either padding or
            the beginning of other functions
  infill    a function with one to a few lines masked, followed inside the hole by 0 to 24 pads: that is how the model
            can choose a length
  lines     functions one after another, with some of their lines masked and all else in sight
  packed    functions one after another with an end-of-text token between them, all of it masked alike
  module    a piece of a module
  window    a text that breaks off anywhere, a function mostly, with only its last 4 to 32 tokens masked: what decoding in
            windows sees, where the canvas ends says nothing about where the text does
  whole     the last lines of a module, its end, and padding

Three things keep the end-of-text token from swallowing the text (the first version of the model wrote four tokens and
ended): padding after the first end counts a tenth, the far end of a canvas is often other text or the middle of a long
function rather than padding, and functions whose body says next to nothing are left out.

Everything about masks is done for the whole batch at once, so one thread keeps a GPU busy.
"""
import numpy as np
import torch

from model import CONFIG

EOT, MASK = CONFIG["eos_token_id"], CONFIG["mask_token_id"]
LENGTHS = {128: 0.45, 256: 0.45, 512: 0.10}  # row length -> share of the steps
MIXES = {  # share of each kind; masked tokens for a row to count in full
    "broad": ({"prompted": 0.27, "infill": 0.12, "lines": 0.26, "packed": 0.10, "module": 0.12, "window": 0.13}, 32),
    # the end of a run: what decoding meets, ends of texts above all
    "decoding": ({"prompted": 0.35, "infill": 0.20, "lines": 0.15, "packed": 0.05, "module": 0.10, "window": 0.15}, 8),
    # as Dream and DiffuCoder were tuned: every text is whole, padded to the end of its row, and all of the padding counts
    "reference": ({"prompted": 0.65, "whole": 0.35}, 1),
}
PAD_WEIGHT = 0.1
LEAST_BODY = 48  # bytes; below it are `return self._x`, `pass`, `raise NotImplementedError`


class Deck:
    """Draws without replacement, reshuffled when it runs out."""

    def __init__(self, items, rng):
        self.items, self.rng, self.at = items, rng, len(items)

    def draw(self):
        if self.at >= len(self.items):
            self.rng.shuffle(self.items)
            self.at = 0
        self.at += 1
        return self.items[self.at - 1]


class Corpus:
    def __init__(self, path, seed, texts, mix="broad"):
        """`texts` holds the text of each token id."""
        self.kinds, self.enough = MIXES[mix]
        self.padded = mix == "reference"
        with np.load(path) as z:
            a = {k: z[k] for k in z.files}
        self.newline = np.array([t.endswith("\n") for t in texts])
        self.rng = np.random.default_rng(seed)
        self.functions, self.starts, self.prefix = a["function"], a["function_starts"], a["function_prefix"]
        self.files, self.file_starts = a["module"], a["module_starts"]
        self.holes, self.hole_starts = a["hole"], a["hole_starts"]
        self.hole_begin, self.hole_end = a["hole_begin"], a["hole_end"]
        self.lined, self.lined_starts, self.lined_inside = a["lines"], a["lines_starts"], a["lines_inside"]
        sizes = np.diff(self.starts)
        real = (a["function_body"] >= LEAST_BODY) & (sizes >= 24)
        # methods outnumber plain functions, and prompts are mostly plain functions: those count twice
        me = np.array([t.strip("( ,") in ("self", "cls") for t in texts])[self.functions]
        before = np.concatenate(([0], np.cumsum(me)))
        plain = before[np.minimum(self.starts[:-1] + 10, len(me))] == before[self.starts[:-1]]

        def deck(fits):
            return Deck(np.concatenate((np.nonzero(fits)[0], np.nonzero(fits & plain)[0])), self.rng)
        self.any = deck(real & (sizes < 512))
        self.pools = {}
        for length in LENGTHS:
            room = self.prefix < 0.6 * length
            self.pools[length] = [deck(real & room & fits) for fits in (
                (sizes >= 0.55 * length) & (sizes < length), sizes < 0.55 * length, sizes >= length)]
        hole_size = self.hole_end - self.hole_begin
        self.hole_deck = Deck(np.nonzero((hole_size >= 1) & (hole_size <= 64))[0], self.rng)
        self.lined_deck = Deck(np.arange(len(self.lined_starts) - 1), self.rng)

    def reseed(self, seed):
        """After a resume: the same decks in another order."""
        self.rng = np.random.default_rng(seed)
        for deck in [self.any, self.hole_deck, self.lined_deck, *(d for pool in self.pools.values() for d in pool)]:
            deck.rng = self.rng

    def function(self, i):
        return self.functions[self.starts[i]:self.starts[i + 1]]

    def fill(self, row, at):
        """Functions from `at` to the end of the row, each after an end-of-text token that is already there."""
        while at < len(row):
            text = self.function(self.any.draw())[:len(row) - at]
            row[at:at + len(text)] = text
            at += len(text) + 1

    def piece(self, length):
        """Part of a module from the start of a line at a random place, or from the module's beginning."""
        at = int(self.rng.integers(len(self.files)))
        doc = int(np.searchsorted(self.file_starts, at, "right")) - 1
        begin, end = int(self.file_starts[doc]), int(self.file_starts[doc + 1])
        if self.rng.random() < 0.1:
            at = begin
        else:
            at = max(begin, min(at, end - length))
            breaks = np.nonzero(self.newline[self.files[at:min(at + 64, end - 1)]])[0]
            at = at + int(breaks[0]) + 1 if len(breaks) else at
        return self.files[at:min(at + length, end)]

    def prompted(self, row, area, worth):
        length = len(row)
        pool = self.pools[length][self.rng.choice(3, p=(0.8, 0.2, 0.0) if self.padded else (0.75, 0.15, 0.10))]
        i = pool.draw()
        text = self.function(i)[:length]
        n = len(text)
        row[:n] = text
        area[self.prefix[i] if self.rng.random() < 0.75 else 0:] = 1
        if n + 1 < length and not self.padded:
            if self.rng.random() < 0.5:
                self.fill(row, n + 1)
            else:
                worth[n + 1:] = PAD_WEIGHT

    def whole(self, row):
        """The last lines of a module, and its end."""
        length = len(row)
        doc = int(self.rng.integers(len(self.file_starts) - 1))
        begin, end = int(self.file_starts[doc]), int(self.file_starts[doc + 1])
        at = max(begin, end - int(self.rng.integers(length // 4, length)))
        if at > begin:
            breaks = np.nonzero(self.newline[self.files[at - 1:end - 1]])[0]
            at = at + int(breaks[0]) if len(breaks) else at
        row[:end - at] = self.files[at:end]

    def window(self, row, area, worth):
        length, rng = len(row), self.rng
        width = int(rng.integers(4, 33))
        if rng.random() < 0.6:  # breaks off inside a long function
            text = self.function(self.pools[length][2].draw())[:length]
        else:  # ends inside or shortly after the window, with the end of other text before it
            end = int(rng.integers(0, width))
            text = np.empty(length + 512, row.dtype)
            at = 0
            while at < length - end:
                one = self.function(self.any.draw())
                text[at:at + len(one) + 1] = np.append(one, EOT)
                at += len(one) + 1
            text[at:at + end] = EOT
            text = text[at + end - length:at + end]
            worth[length - end:] = PAD_WEIGHT
        row[:len(text)] = text
        area[length - width:] = 1

    def infill(self, row, area, worth):
        length, rng = len(row), self.rng
        i = self.hole_deck.draw()
        text = self.holes[self.hole_starts[i]:self.hole_starts[i + 1]]
        begin, end = int(self.hole_begin[i]), int(self.hole_end[i])
        pads = 0 if rng.random() < 0.4 else int(rng.integers(1, 25))
        # cut the text so that the hole is inside the row with something on both sides
        room = length - (end - begin) - pads
        skip = max(0, min(begin - room // 2, len(text) - (end - begin) - room))
        head, hole, tail = text[skip:begin], text[begin:end], text[end:]
        whole = np.concatenate((head, hole, np.full(pads, EOT, text.dtype), tail))[:length]
        row[:len(whole)] = whole
        a, b = len(head), min(len(head) + len(hole) + pads, length)
        if rng.random() < 0.6:
            area[:len(whole)] = 2  # the rest of the text is masked as well, lightly
        area[a:b] = 1
        worth[a + len(hole) + 1:b] = PAD_WEIGHT
        if len(whole) + 1 < length:
            self.fill(row, len(whole) + 1)

    def lines(self, row, area):
        at = 0
        while at < len(row):
            i = self.lined_deck.draw()
            begin, end = self.lined_starts[i], self.lined_starts[i + 1]
            if end - begin > len(row):  # a long function: from anywhere in it
                begin = self.rng.integers(begin, end - len(row) + 1)
            end = min(end, begin + len(row) - at)
            row[at:at + end - begin] = self.lined[begin:end]
            area[at:at + end - begin] = self.lined_inside[begin:end]
            at += end - begin + 1

    def batch(self, tokens, lengths=LENGTHS):
        """`ids` [B, L] with masks, `at` the flat indices of the masked positions, `target` and `weight` there."""
        rng = self.rng
        length = int(rng.choice(list(lengths), p=list(lengths.values())))
        rows = max(1, tokens // length)
        target = np.full((rows, length), EOT, dtype=np.int64)
        area = np.zeros((rows, length), dtype=np.int8)  # 0 never masked, 1 at the row's level, 2 lightly
        worth = np.ones((rows, length), dtype=np.float32)
        for r, kind in enumerate(rng.choice(list(self.kinds), rows, p=list(self.kinds.values()))):
            row = target[r]
            if kind == "prompted":
                self.prompted(row, area[r], worth[r])
            elif kind == "infill":
                self.infill(row, area[r], worth[r])
            elif kind == "lines":
                self.lines(row, area[r])
            elif kind == "window":
                self.window(row, area[r], worth[r])
            elif kind == "packed":
                self.fill(row, 0)
                area[r] = 1
            elif kind == "whole":
                self.whole(row)
                area[r] = 1
            else:
                text = self.piece(length)
                row[:len(text)] = text
                worth[r, len(text) + 1:] = PAD_WEIGHT
                area[r, int(rng.integers(1, len(text))) if rng.random() < 0.15 and len(text) > 1 else 0:] = 1
        levels = 0.02 + 0.98 * (rng.permutation(rows) + rng.random(rows)) / rows  # stratified
        return masked_batch(target, worth, [(area == 1, levels, 1.0), (area == 2, 0.3 * rng.random(rows), 0.5)], rng, self.enough)

    def plain(self, rows, length):
        """Module pieces and packed functions in turn, without padding."""
        ids = np.full((rows, length), EOT, dtype=np.int64)
        for r, row in enumerate(ids):
            begin = 0
            if r % 2 == 0:
                text = self.piece(length)
                row[:len(text)] = text
                begin = len(text) + 1
            self.fill(row, begin)
        return ids

    def causal_batch(self, tokens, length=256):
        """Plain text for next-token prediction. The head is shifted as always."""
        rows = max(1, tokens // length)
        ids = self.plain(rows, length)
        at = np.arange(rows * length).reshape(rows, length)[:, 1:].ravel()
        weight = np.full(len(at), 1.0 / len(at), dtype=np.float32)
        return {"ids": torch.from_numpy(ids), "at": torch.from_numpy(at), "target": torch.from_numpy(ids.ravel()[at]),
                "weight": torch.from_numpy(weight)}

    def validation(self, rows, length=256):
        """Plain text, masked at stratified levels: an estimate of the NELBO."""
        target = self.plain(rows, length)
        ones = np.ones((rows, length), dtype=np.float32)
        levels = (np.arange(rows) // 2 * 2 + 1) / (rows // 2 * 2)
        return masked_batch(target, ones, [(ones > 0, levels, 1.0)], self.rng)

    def validation_holes(self, rows, length=256):
        """Functions with a hole, all of it masked, and nothing else."""
        target = np.full((rows, length), EOT, dtype=np.int64)
        area = np.zeros((rows, length), dtype=bool)
        for r in range(rows):
            i = -1
            while i < 0 or self.hole_starts[i + 1] - self.hole_starts[i] > length:
                i = self.hole_deck.draw()
            text = self.holes[self.hole_starts[i]:self.hole_starts[i + 1]]
            target[r, :len(text)] = text
            area[r, self.hole_begin[i]:self.hole_end[i]] = True
            self.fill(target[r], len(text) + 1)
        return masked_batch(target, np.ones((rows, length), dtype=np.float32), [(area, np.ones(rows), 1.0)], self.rng)


def masked_batch(target, worth, areas, rng, enough=1):
    """Mask ceil(level * n) random tokens of each row's area; each area's weights sum to about its share of 1 / rows, or to
    less where fewer than `enough` tokens are masked: the square root, so that the noise of one token is never a row's."""
    rows, length = target.shape
    masked = np.zeros((rows, length), dtype=bool)
    weight = np.zeros((rows, length), dtype=np.float32)
    for inside, level, share in areas:
        n = inside.sum(1)
        count = np.where(level > 0, np.maximum(np.ceil(level * n), np.minimum(n, 1)), 0).astype(np.int64)
        noise = np.where(inside, rng.random((rows, length), dtype=np.float32), 2.0)
        rank = noise.argsort(1).argsort(1)
        chosen = inside & (rank < count[:, None])
        masked |= chosen
        mean = (worth * inside).sum(1) / np.maximum(n, 1)
        sure = np.minimum(1.0, np.sqrt(count / enough))
        weight += chosen * worth * (share * sure / (rows * np.maximum(count, 1) * np.maximum(mean, 1e-6)))[:, None]
    at = np.flatnonzero(masked)
    return {"ids": torch.from_numpy(np.where(masked, MASK, target)), "at": torch.from_numpy(at),
            "target": torch.from_numpy(target.ravel()[at]), "weight": torch.from_numpy(weight.ravel()[at].astype(np.float32))}
