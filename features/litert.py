"""Runs a LiteRT graph on images of any size; imports no TensorFlow."""

import numpy as np


class Graph:
    """A LiteRT graph with one input; for one thread at a time."""

    def __init__(self, content: bytes, threads: int = 1):
        """Load the flatbuffer; raises ImportError without LiteRT, ValueError if it is damaged."""
        # It is optional: Keras can pass images, too.
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [one["index"] for one in self._interpreter.get_output_details()]
        self._shape: tuple[int, ...] | None = None

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for a batch (1, ...): views that the next call makes invalid.

        `invoke` releases the GIL. Views, because a copy of all pixels costs time.
        """
        if batch.shape != self._shape:
            self._shape = batch.shape
            self._interpreter.resize_tensor_input(self._input, batch.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input, batch)
        self._interpreter.invoke()
        return [self._interpreter.tensor(output)() for output in self._outputs]
