"""The progress bar of training: one for the epochs of all heads, fed by tasks in any thread."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

SHOWN = 8  # heads whose accuracies fit beside the bar


@dataclass(frozen=True)
class Progress:
    """The heads of a seed have trained for one more epoch."""

    seed: int
    metrics: Mapping[Hashable, Any]  # name of a head -> heads.EpochMetrics


class TrainingBar(tqdm):
    """The bar, fed by a queue of Progress; quiet where standard error is not a terminal.

    Whoever submits a task adds the epochs of its heads to `total`.
    """

    def __init__(self, reports: Any):
        super().__init__(total=0, desc="training", unit=" epochs", disable=None)
        self._reports, self.report = reports, reports.put  # what tasks call

    def show(self) -> None:
        """Draw what tasks have reported."""
        while not self._reports.empty():
            done = self._reports.get()
            if len(done.metrics) <= SHOWN:
                heads = (f"{label} {m.val_accuracy:.4f}" for label, m in done.metrics.items())
                self.set_postfix_str(f"seed {done.seed}: {', '.join(heads)}", refresh=False)
            self.update(len(done.metrics))
