"""The embedded digits: a data set that needs no download."""

import io
import os

import numpy as np
from PIL import Image

from sources.source import Entry, Listing, Source, digest


def list_digits() -> Listing:
    """Return scikit-learn's 1,797 handwritten digits, 8 x 8 grey, as BMP files in memory."""
    # Only this source needs scikit-learn, whose import takes a second.
    from sklearn.datasets import load_digits

    encoded, entries = [], []
    for row, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        file = io.BytesIO()
        # The pixels are 0 to 16.
        grey = (pixels.reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(grey).save(file, "BMP")
        encoded.append(file.getvalue())
        entries.append(Entry(f"digit {row}", int(label), digest(encoded[row]), key=b"%d" % row))
    note = "the embedded digits are used; for the folder digits give ./digits"
    notes = [note] if os.path.isdir("digits") else []
    return Listing("digits", Source(encoded), entries, {i: str(i) for i in range(10)}, notes)
