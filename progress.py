"""The progress bar of training: one for all heads of an experiment, fed by tasks in threads."""

import queue
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm


class HasAccuracy(Protocol):
    """Metrics of an epoch, of which the bar shows one."""

    val_accuracy: float


@dataclass(frozen=True)
class Progress:
    """The heads of a seed have trained for one more epoch."""

    seed: int
    metrics: Mapping[Hashable, HasAccuracy]  # by name of the head


class TrainingBar:
    """A bar over the epochs of all heads; quiet when standard error is not a terminal."""

    def __init__(self) -> None:
        self._reports: queue.SimpleQueue[Progress] = queue.SimpleQueue()
        self.report = self._reports.put  # What tasks call, from any thread.
        self._bar = tqdm(total=0, desc="training", unit=" epochs", disable=None)

    def expect(self, tables: Iterable[list[float]]) -> None:
        """Add heads to be trained, by the rates of their epochs, to the length of the bar."""
        self._bar.total += sum(map(len, tables))

    def show(self) -> None:
        """Draw what tasks have reported."""
        while not self._reports.empty():
            progress = self._reports.get()
            now = [f"{name} {of.val_accuracy:.4f}" for name, of in progress.metrics.items()]
            if len(now) < 8:
                self._bar.set_postfix_str(f"seed {progress.seed}: {', '.join(now)}", refresh=False)
            self._bar.update(len(progress.metrics))

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.write(line)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.show()
        self._bar.close()
