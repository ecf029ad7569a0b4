"""Files with the state of a computation."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from genreg.solvers.checkpoints import digest, load_state, not_finite, refuse_other, save_state

STATE = {
    "step": 3,
    "rate": 0.1,
    "name": "run",
    "nothing": None,
    "flags": (True, False),
    "optimiser": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.zeros(0)}},
    "z": torch.randn(3, 2, dtype=torch.complex128),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "turned": torch.arange(6.0).view(2, 3).T,
    "mask": torch.tensor([True, False]),
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_states_come_back_as_they_were(tmp_path):
    shared = torch.arange(4.0)
    state = {**STATE, "one": shared, "view": shared[1:]}
    save_state(tmp_path / "sub" / "run", state, "test")
    assert same(load_state(tmp_path / "sub" / "run", "test"), {**state, "flags": [True, False]})
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["run"]
    (tmp_path / "other").touch()
    assert (tmp_path / "sub" / "run").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_every_damaged_byte_is_seen(tmp_path):
    file = tmp_path / "run"
    save_state(file, {"x": torch.arange(3.0), "step": 3}, "test")
    whole = file.read_bytes()
    for k in range(0, len(whole), 7):
        file.write_bytes(whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint .*run can't be read"):
            load_state(file, "test")
    for k in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:k])
        with pytest.raises(ValueError, match=r"can't be read"):
            load_state(file, "test")


def test_other_files_are_refused(tmp_path):
    save_state(tmp_path / "run", {"step": 3}, "training")
    with pytest.raises(ValueError, match=r"holds the state of a training, not of a sampling"):
        load_state(tmp_path / "run", "sampling")
    with pytest.raises(FileNotFoundError, match=r"saved must be a file that exists"):
        load_state(tmp_path / "none", "training", name="saved")
    torch.save({"step": 3}, tmp_path / "old")
    with pytest.raises(
        ValueError, match=r"of another kind \(as files of versions that kept no checksum are\)"
    ):
        load_state(tmp_path / "old", "training")
    with pytest.raises(TypeError, match=r"a state is made of tensors, numbers and texts, got set"):
        save_state(tmp_path / "run", {"step": {3}}, "training")
    assert load_state(tmp_path / "run", "training") == {"step": 3}


@dataclasses.dataclass
class Kernel:
    step: float


VALUES = [
    *(None, False, 0, 0.0, "0", b"0", [], {}, [[], []], [[[]]], ("a", "b"), ["ab"], {"a": 1}, {"a": 2}),
    *(torch.zeros(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, 1e-30])),
    *(torch.zeros(1, dtype=torch.complex64), torch.tensor(0.0), Kernel(0.1), Kernel(0.2), nn.Linear(1, 1)),
]


def test_digests_tell_values_apart_and_know_them_again():
    found = [digest(value) for value in VALUES]
    assert len(set(found)) == len(VALUES)
    assert found == [digest(value) for value in VALUES]
    assert digest("a", "b") != digest("ab")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    x = torch.randn(3, 4)
    for other in (x.numpy(), x.numpy().astype(">f4"), x.T.contiguous().T, x.clone().requires_grad_()):
        assert digest(other) == digest(x)
    assert digest(np.float32(0.5), np.int64(3)) == digest(0.5, 3)
    with pytest.raises(TypeError, match="a digest is made of tensors, arrays, numbers and texts, got set"):
        digest({1})


def test_digests_are_those_of_another_process():
    known = "sha256:e2aa1affaed720c1a2629d60690060d27331fac2d1a3bdb461d0cce4eba552a9"
    assert digest({"a": torch.arange(3.0), "c": np.arange(2)}, "b", 0.1, Kernel(0.5)) == known


def test_values_that_are_not_finite_are_named():
    state = {
        "model": {"w": torch.ones(2), "b": torch.tensor([0.0, torch.nan])},
        "l": [1.0, -np.inf],
        "n": 2**2000,
    }
    assert not_finite(state) == ["model.b", "l.1"]


def test_identities_are_compared_by_kind(tmp_path):
    file = tmp_path / "run"
    probe = torch.randn(5)
    mine = {"lr": 0.1, "betas": (0.0, 0.9), "images": digest(1), "G": probe}
    refuse_other(file, {"lr": 0.1, "betas": [0.0, 0.9], "images": digest(1), "G": probe * (1 + 1e-6)}, mine)
    for key, value, words in (
        ("lr", 0.2, r"another run: lr was 0\.2 and is 0\.1\. Give"),
        ("images", digest(2), r"another run: images differ\."),
        ("G", probe + 0.01, r"another run: G differ\."),
        ("G", None, r"another run: G differ\."),
        ("new", 3, r"another run: new was 3 and is None"),
    ):
        with pytest.raises(ValueError, match=words):
            refuse_other(file, {**mine, key: value}, mine)
