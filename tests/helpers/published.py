"""The published datasets, read once, and small files in their formats."""

import functools
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fedsim import data

SOURCES = {
    "fashion_mnist": data.fashion_mnist(),
    "cifar10": data.cifar10(),
    "femnist": data.femnist(),
    "retinamnist": data.medmnist("retinamnist"),
    "breastmnist": data.medmnist("breastmnist"),
}


@functools.cache
def published(name, data_dir):
    return SOURCES[name].load(data_dir)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
