"""The weights of a training with the best score on held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


class BestWeights:
    """The best weights so far, and how long nothing has been better.

    Parameters
    ----------
    score : str
        The entry of the history by which weights are judged.
    sign : int
        1 where less is better, -1 where more is.
    patience : int, optional
        Entries of the history in a row without a better score after which a training over-fits.
    """

    def __init__(self, score: str, sign: int, patience: int | None) -> None:
        self.score, self.sign, self.patience = score, sign, patience
        self.step = 0
        self.value: float | None = None
        self.weights: dict[str, Any] = {}

    def judge(self, entry: Mapping[str, Any], model: nn.Module) -> None:
        """Keep the weights of a model where an entry of its history is the best so far."""
        value = self.sign * entry[self.score]
        if self.value is None or value < self.value:
            self.step, self.value = entry["step"], value
            self.weights = {key: t.detach().clone() for key, t in model.state_dict().items()}

    def overfits(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the score has not become better for as long as the training is to be patient."""
        if self.patience is None or self.value is None:
            return False
        return sum(entry["step"] > self.step for entry in history) >= self.patience

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"step": self.step, "value": self.value, "weights": self.weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`."""
        self.step, self.value, self.weights = state["step"], state["value"], state["weights"]
