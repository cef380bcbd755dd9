"""The progress bar of training: one for the epochs of all heads, fed by tasks in any thread."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

SHOWN = 8  # heads whose accuracies fit beside the bar


@dataclass(frozen=True)
class Progress:
    """The heads of a seed have trained for one more epoch."""

    seed: int
    metrics: Mapping[Hashable, Any]  # name of a head -> heads.EpochMetrics


class TrainingBar:
    """The bar, fed by a queue of Progress; quiet where standard error is not a terminal."""

    def __init__(self, reports: Any):
        self._reports, self.report = reports, reports.put  # what tasks call
        self._bar = tqdm(total=0, desc="training", unit=" epochs", disable=None)
        self.write, self.close = self._bar.write, self._bar.close

    def expect(self, tables: Iterable[list[float]]) -> None:
        """Make the bar longer by heads to be trained, given the rates of their epochs."""
        self._bar.total += sum(map(len, tables))

    def show(self) -> None:
        """Draw what tasks have reported."""
        while not self._reports.empty():
            done = self._reports.get()
            if len(done.metrics) <= SHOWN:
                accuracies = (f"{label} {m.val_accuracy:.4f}" for label, m in done.metrics.items())
                text = f"seed {done.seed}: {', '.join(accuracies)}"
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(len(done.metrics))
