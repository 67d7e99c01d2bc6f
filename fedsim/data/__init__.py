"""Datasets in the file formats of their publishers, one module for each format.

A `Source` is a record of a dataset's name and of how to load it; nothing is read before a run.
"""

from fedsim.data.adult import adult
from fedsim.data.cifar10 import cifar10
from fedsim.data.digits import digits
from fedsim.data.femnist import femnist
from fedsim.data.hub import hub
from fedsim.data.idx import fashion_mnist, mnist
from fedsim.data.medmnist import medmnist
from fedsim.data.synthetic import synthetic
from fedsim.data.text import ag_news, sst2

__all__ = [
    "adult",
    "ag_news",
    "cifar10",
    "digits",
    "fashion_mnist",
    "femnist",
    "hub",
    "medmnist",
    "mnist",
    "sst2",
    "synthetic",
]
