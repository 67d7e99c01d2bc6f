"""The cache of derived arrays, and damaged files in it."""

import gc
import io

import numpy as np
import pytest

from fedsim.core.cache import cache_folder, cached


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Calls `cached` and counts how often it had to build; `stored.path()` is its one file."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path))

    class Stored:
        built = 0

        def build(self):
            self.built += 1
            return {"a": np.arange(5), "b": np.array(["x", "yz"])}

        def __call__(self, key="key"):
            return cached("test", key, self.build)

        def path(self):
            (path,) = cache_folder().iterdir()  # nothing else is left behind
            return path

    return Stored()


def test_the_cache_gives_what_was_built_and_builds_once_a_key(stored):
    first, second = stored(), stored()
    assert stored.built == 1
    assert {name: array.tolist() for name, array in second.items()} == {
        "a": [0, 1, 2, 3, 4],
        "b": ["x", "yz"],
    }
    assert {k: v.dtype for k, v in first.items()} == {k: v.dtype for k, v in second.items()}
    stored("another key")
    assert stored.built == 2


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def said_to_be_encrypted(content):
    """The npz with the flag "encrypted" set for its first array: one bit of its directory."""
    place = content.index(b"PK\1\2") + 8
    return content[:place] + bytes((content[place] | 1,)) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not an npz",
        lambda content: content.replace(np.arange(5).tobytes(), np.arange(1, 6).tobytes()),
        pytest.param(lambda content: content[:-30]),
        pytest.param(lambda content: npy(np.arange(3))),
        pytest.param(said_to_be_encrypted),
    ],
    ids=["empty", "no npz", "bad checksum", "cut short", "an npy", "encrypted"],
)
def test_a_damaged_cache_file_is_rebuilt_and_replaced(stored, damage):
    stored()
    content = stored.path().read_bytes()
    stored.path().write_bytes(damage(content))
    assert stored()["a"].tolist() == [0, 1, 2, 3, 4]
    assert stored.built == 2
    stored()
    assert stored.built == 2
    gc.collect()  # a file left open would warn here, and warnings are errors
