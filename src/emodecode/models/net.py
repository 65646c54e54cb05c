"""NetClassifier: torch networks as scikit-learn classifiers, trained by skorch.

The epoch is chosen on training subjects that are held out of the training, never on shuffled
volumes of the same blocks; a killed training goes on from its last checkpoint to the same weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.features.scale import check_finite, check_width
from emodecode.models.conv1d import NETWORKS
from emodecode.models.linear import check_classes
from emodecode.models.members import (
    Given,
    Parts,
    divide,
    encode,
    member_recipe,
    train_members,
)
from emodecode.models.training import Recipe

_CHUNK = 4096
"""Rows that are predicted at once."""


class NetClassifier(ClassifierMixin, BaseEstimator):
    """A network, or a few that are averaged, with the epoch chosen on held-out training subjects.

    Each of `n_members` networks starts from its own weights and holds out another part of the
    training subjects (with more members than subjects, parts serve again); their probabilities are
    averaged. Nothing is trained again after the epoch is chosen: with several members every
    subject is in the training of most of them.

    Parameters
    ----------
    network : {"conv1d", "s2_conv1d", "hanson_mlp"}
        See `emodecode.models.conv1d`.
    n_filters, dropout, noise
        Of ``conv1d`` alone.
    max_epochs, batch_size : int
    learning_rate : float
        Of Adam.
    l1, l2 : float
        Penalties ``l1 sum |w| + l2 sum w^2`` on the weights that the network names as penalised.
    weight_decay : float
        Decoupled weight decay (AdamW) of the same weights.
    plateau_factor, plateau_patience, min_learning_rate
        The learning rate is multiplied by the factor when the validation loss (without a
        validation: the training loss) has not fallen for so many epochs; factor 1: never.
    patience : int, optional
        Training stops when the validation has not improved for so many epochs; None: never.
    choose_by : {"loss", "accuracy"}
        What the best epoch is best in, on the validation.
    validation_share : float
        Share of the training subjects that are held out to choose the epoch, less where there are
        more members: at most one part of `n_members`. 0: the last epoch is taken. With fewer than
        three subjects, or none given, contiguous rows: the last ones for the first member, those
        before them for the next. What would leave the training without a class is not held out.
    n_members : int
    class_weight : "balanced" or None
    random_state : int
    device : str
        "auto": a GPU if there is one.
    checkpoint : path, optional
        Start of the name of the file in which the state of a training is kept; the end of the
        name follows from data and parameters. A killed `fit`, called again, goes on from there to
        the same weights, bit for bit on a CPU. Removed when the training is complete.
    checkpoint_epochs : int
        Epochs between two states.
    progress : bool
        Show a bar over the epochs on stderr.

    Attributes
    ----------
    classes_ : ndarray of str
    modules_ : list of Module
        Trained networks, on the CPU.
    history_ : list of dict
        ``seed epoch learning_rate train_loss train_accuracy valid_loss valid_accuracy penalty
        best``, one entry an epoch; `seed` is the member's number. Training values are of the
        batches as they were trained on (with dropout and noise); losses are cross-entropies by
        class weight, without `penalty` (``l1 sum |w| + l2 sum w^2``). None: no validation.
    best_epochs_ : list of int
        From 1, one a member.
    validation_subjects_ : list of list of str
        Whom each member was judged on.

    Raises
    ------
    InputError
        At `fit`: one class, features or a loss that are not finite, parameters out of range.
    """

    def __init__(
        self,
        *,
        network: str = "conv1d",
        n_filters: int = 16,
        dropout: float = 0.25,
        noise: float = 2.0,
        max_epochs: int = 150,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float = 0.0,
        plateau_factor: float = 1.0,
        plateau_patience: int = 50,
        min_learning_rate: float = 1e-5,
        patience: int | None = 30,
        choose_by: str = "loss",
        validation_share: float = 0.2,
        n_members: int = 1,
        class_weight: str | None = "balanced",
        random_state: int = 0,
        device: str = "auto",
        checkpoint: str | Path | None = None,
        checkpoint_epochs: int = 10,
        progress: bool = False,
    ) -> None:
        self.network = network
        self.n_filters = n_filters
        self.dropout = dropout
        self.noise = noise
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.l1 = l1
        self.l2 = l2
        self.weight_decay = weight_decay
        self.plateau_factor = plateau_factor
        self.plateau_patience = plateau_patience
        self.min_learning_rate = min_learning_rate
        self.patience = patience
        self.choose_by = choose_by
        self.validation_share = validation_share
        self.n_members = n_members
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.checkpoint = checkpoint
        self.checkpoint_epochs = checkpoint_epochs
        self.progress = progress

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        subjects: np.ndarray | None = None,
        parts: Parts | None = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> "NetClassifier":
        """Train.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        y : ndarray of shape (n_samples,)
        subjects : ndarray of shape (n_samples,), optional
            Subject of each sample; the validation holds out whole subjects.
        parts : sequence of (train, judge), optional
            Positions to train and to choose the epoch on, member by member, instead: disjoint by
            subject and stimulus where all subjects saw the same film.
        validation : (X, y), optional
            Samples to choose the epoch on instead, as S2 chose it on the test subject. Whoever
            passes test samples leaks them.
        """
        X = np.asarray(X, dtype=np.float32)
        check_finite(X)
        check_classes(y)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        self.n_features_in_ = X.shape[1]
        judged = None
        if validation is not None:
            labels = encode(validation[1], self.classes_, where=f"model {self.network}")
            judged = np.asarray(validation[0], np.float32), labels
        divisions = divide(
            codes,
            subjects,
            n_members=self.n_members,
            share=self.validation_share if validation is None else 0.0,
            seed=self.random_state,
            parts=parts,
        )
        found = train_members(
            self._make_module,
            Given(X, codes),
            divisions,
            recipe_of=self._recipe,
            validation=judged,
        )
        found.give_to(self)
        self.inference_: list[Any] = [
            module.collapse() if hasattr(module, "collapse") else module for module in self.modules_
        ]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the members' mean probabilities, shape (n_samples, n_classes)."""
        return self.predict_members(X).mean(axis=0)

    def predict_members(self, X: np.ndarray) -> np.ndarray:
        """Return each member's probabilities, shape (n_members, n_samples, n_classes)."""
        check_is_fitted(self, "modules_")
        X = np.ascontiguousarray(X, dtype=np.float32)
        check_width(X, self.n_features_in_)
        found = np.empty((len(self.inference_), len(X), len(self.classes_)))
        with torch.inference_mode():
            for start in range(0, len(X), _CHUNK):
                rows = torch.from_numpy(X[start : start + _CHUNK])
                for own, module in zip(found, self.inference_, strict=True):
                    own[start : start + _CHUNK] = torch.softmax(module(rows), dim=1).numpy()
        return found

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _make_module(self) -> torch.nn.Module:
        sizes = {"n_features": self.n_features_in_, "n_classes": len(self.classes_)}
        return NETWORKS[self.network](**sizes, **self._options())

    def _options(self) -> dict[str, Any]:
        if self.network != "conv1d":
            return {}
        return {name: getattr(self, name) for name in ("n_filters", "dropout", "noise")}

    def _recipe(self, member: int) -> Recipe:
        return member_recipe(self, member, options=self._options())
