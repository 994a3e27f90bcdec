"""What a user has in a module of their own, outside of qtool and its tests: a data loader, a metric, a pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit import Pass

STORED = dict(np.load(Path(__file__).parents[4] / "models" / "digits_test.npz"))


class Loader:
    """What torch's DataLoader is to us: batches of dictionaries, a data set, a batch size and a sampler."""

    def __init__(self, count, batch_size=16, labels=True, sampler=None):
        self.dataset, self.batch_size, self.sampler = range(count), batch_size, sampler
        self.labels = labels

    def __len__(self):
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self):
        for start in range(0, len(self.dataset), self.batch_size):
            rows = slice(start, min(start + self.batch_size, len(self.dataset)))
            batch = {"image": STORED["image"][rows]}
            yield {**batch, "label": STORED["label"][rows]} if self.labels else batch


class RandomSampler:
    pass


class ShareRight:
    """The share of samples whose argmax is the label."""

    higher_is_better = True

    def __init__(self, bonus=0.0):
        self.bonus, self.right, self.count = bonus, 0, 0

    def update(self, outputs, labels):
        (logits,) = outputs.values()
        self.right += int((logits.argmax(axis=1) == labels["label"]).sum())
        self.count += len(logits)

    def value(self):
        return self.right / self.count + self.bonus


class Marks(Pass):
    """Notes that it was there."""

    word: str = "here"

    def apply(self, model, context):
        context.journal.noted(self.word)
