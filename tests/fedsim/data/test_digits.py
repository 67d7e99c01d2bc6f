"""The digits are scikit-learn's, read without importing it."""

import numpy as np
from sklearn.datasets import load_digits

from fedsim.data.digits import read_table


def test_the_table_is_what_scikit_learn_loads():
    x, y = load_digits(return_X_y=True)
    table = read_table()
    np.testing.assert_array_equal(table[:, :-1], x)
    np.testing.assert_array_equal(table[:, -1], y)
