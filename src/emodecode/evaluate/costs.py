"""What the network of a fitted decoder costs: parameters and multiply-adds at its own input."""

from copy import copy
from typing import Any


def network_cost(classifier: Any) -> dict[str, Any] | None:
    """Count the network of a fitted classifier for one sample of the data it was fitted on.

    Parameters
    ----------
    classifier : estimator
        `emodecode.models.net.NetClassifier`, `emodecode.models.volumenet.VolumeNetClassifier` or
        any other.

    Returns
    -------
    dict or None
        ``parameters``, ``trainable`` and ``multiply_adds`` of one network, ``input`` (the shape of
        one sample) and ``networks`` (how many are averaged). None for what is no network. S2's
        1-D network is counted as it is written, layer after layer
        (`emodecode.models.cost.cost_rows`).
    """
    modules = getattr(classifier, "modules_", None)
    if not modules:
        return None
    from emodecode.models.cost import measure_cost
    from emodecode.models.unmask import Unmask

    network: Any = modules[0]
    shape: tuple[int, ...] = (int(classifier.n_features_in_),)
    if isinstance(network, Unmask):
        network, shape = network.network, (classifier.window or 1, *network.shape)
    if getattr(network, "composed", False):
        network = copy(network)  # its layers are shared; only how they are applied differs
        network.composed = False
    found = measure_cost(network, shape)
    return {
        "parameters": found.n_parameters,
        "trainable": found.n_trainable,
        "multiply_adds": found.multiply_adds,
        "input": list(shape),
        "networks": len(modules),
    }
