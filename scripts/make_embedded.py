#!/usr/bin/env python3
"""Makes src/data/embedded/: 5,000 + 1,000 images of Fashion-MNIST, balanced, as four gzipped IDX files.

    apt-get install dataset-fashion-mnist
    python3 scripts/make_embedded.py [FOLDER with the four original files]

Takes the first 500 training and the first 100 test images of each class, and writes them class after class in turn (0, 1,
.., 9, 0, 1, ..), so that any first multiple of ten is balanced. Standard library only; the same files come out each time.
"""

import gzip
import struct
import sys
from pathlib import Path

SOURCE = Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).resolve().parent.parent / "src" / "data" / "embedded"
CLASSES, PIXELS = 10, 28 * 28


def write(name, header, payload):
    with open(TARGET / name, "wb") as file:
        # No name and no time inside, so that the bytes depend on the content alone.
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=9, mtime=0) as packed:
            packed.write(header + payload)


def take(prefix, per_class):
    images = gzip.open(SOURCE / f"{prefix}-images-idx3-ubyte.gz").read()
    labels = gzip.open(SOURCE / f"{prefix}-labels-idx1-ubyte.gz").read()
    count = struct.unpack(">IIII", images[:16])[1]
    assert images[:4] == b"\0\0\x08\x03" and labels[:4] == b"\0\0\x08\x01" and len(labels) == 8 + count
    members = [[i for i in range(count) if labels[8 + i] == c][:per_class] for c in range(CLASSES)]
    order = [members[c][i] for i in range(per_class) for c in range(CLASSES)]
    pixels = b"".join(images[16 + i * PIXELS : 16 + (i + 1) * PIXELS] for i in order)
    write(f"{prefix}-images-idx3-ubyte.gz", struct.pack(">IIII", 0x803, len(order), 28, 28), pixels)
    write(f"{prefix}-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, len(order)), bytes(labels[8 + i] for i in order))


take("train", 500)
take("t10k", 100)
