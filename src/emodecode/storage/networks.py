"""Trained networks on disk: parameters as JSON, arrays as npz, weights as safetensors."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from emodecode.errors import ContractError
from emodecode.storage.folder import changed

CLASSIFIERS = {
    "NetClassifier": "emodecode.models.net",
    "VolumeNetClassifier": "emodecode.models.volumenet",
}
"""Classifiers that hold trained networks (`modules_`), and where they are defined."""

ARRAYS = "network.npz"

_OF_THE_MACHINE = {"checkpoint": None, "progress": False, "device": "auto", "n_workers": 0}
"""Parameters that belong to where a network was trained, and what a loaded one has instead."""

_NOT_KEPT = ("modules_", "inference_", "history_")


def store_network(classifier: Any, folder: Path) -> dict[str, Any]:
    """Write a trained classifier of networks: arrays, and a safetensors file a member.

    Returns
    -------
    dict
        ``class params fitted members channels_last``, for `load_network`.
    """
    kind = type(classifier).__name__
    if CLASSIFIERS.get(kind) != type(classifier).__module__:
        raise ContractError(
            "network",
            found=f"a {kind}",
            expected=f"one of {', '.join(CLASSIFIERS)}",
            remedy="Use a decoder of the catalogue (docs/models.md).",
        )
    given = {k: v for k, v in classifier.get_params(deep=False).items() if k in _OF_THE_MACHINE}
    params = classifier.get_params(deep=False) | {k: _OF_THE_MACHINE[k] for k in given}
    learned = {
        name: value
        for name, value in vars(classifier).items()
        if name.endswith("_") and not name.startswith("_") and name not in _NOT_KEPT
    }
    arrays: dict[str, np.ndarray] = {}
    plain = {
        part: _plain(values, arrays, part)
        for part, values in (("params", params), ("fitted", learned))
    }
    np.savez_compressed(folder / ARRAYS, **arrays)  # type: ignore[arg-type]
    members = [
        _store_member(module, folder, number)
        for number, module in enumerate(classifier.modules_, start=1)
    ]
    last = any(_is_channels_last(module) for module in classifier.modules_)
    return {"class": kind, **plain, "members": members, "channels_last": last}


def load_network(folder: Path, described: dict[str, Any]) -> Any:
    """Build the classifier again and fill in its weights.

    Raises
    ------
    ContractError
        Another class, arrays that are missing, or weights that do not fit the network.
    """
    import torch

    kind = described["class"]
    if kind not in CLASSIFIERS:
        raise changed(folder / "decoder.json", f"a network of class {kind!r}")
    arrays = _load_arrays(folder / ARRAYS)
    make = getattr(import_module(CLASSIFIERS[kind]), kind)
    classifier = make(**(described["params"] | _of(arrays, "params")))
    for name, value in (described["fitted"] | _of(arrays, "fitted")).items():
        if not name.endswith("_") or name.startswith("_") or name in _NOT_KEPT:
            raise changed(folder / "decoder.json", f"{name!r}, which no training leaves")
        setattr(classifier, name, value)
    if described["members"] != [_member(k) for k in range(1, classifier.n_members + 1)]:
        raise changed(folder / "decoder.json", f"other members than {classifier.n_members}")
    classifier.modules_, classifier.history_ = [], []
    for name in described["members"]:
        with torch.random.fork_rng(devices=[]):
            module = classifier._make_module()
        _fill(module, folder / name)
        if described["channels_last"]:
            module.to(memory_format=torch.channels_last_3d)
        classifier.modules_.append(module.eval())
    if kind == "NetClassifier":
        classifier.inference_ = [
            module.collapse() if hasattr(module, "collapse") else module
            for module in classifier.modules_
        ]
    return classifier


def _plain(values: dict[str, Any], arrays: dict[str, np.ndarray], part: str) -> dict[str, Any]:
    """Return what JSON can hold; arrays go to `arrays`."""
    found = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            arrays[f"{part}.{name}"] = value
            continue
        found[name] = value.item() if isinstance(value, np.generic) else value
        try:
            json.dumps(found[name], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"network: {name}",
                found=f"a {type(value).__name__} that has no plain form",
                expected="numbers, text, lists of them or arrays",
                remedy="Leave the parameter at its default.",
            ) from error
    return found


def _of(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    start = f"{part}."
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zip, zlib and numpy have kinds of their own
        raise changed(path, f"no arrays of numpy ({error})") from error


def _store_member(module: Any, folder: Path, number: int) -> str:
    from safetensors.torch import save_file

    name = _member(number)
    weights = {key: value.detach().cpu() for key, value in module.state_dict().items()}
    save_file({key: value.contiguous().clone() for key, value in weights.items()}, folder / name)
    return name


def _member(number: int) -> str:
    """Name of a member's file; all files of such names are sealed."""
    return f"member-{number}.safetensors"


def _fill(module: Any, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        module.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise changed(path, f"weights that do not fit the network ({reason})") from error


def _is_channels_last(module: Any) -> bool:
    """Tell whether the kernels over volumes are stored channels last: it changes rounding."""
    import torch

    kernels = [each for each in module.parameters() if each.ndim == 5]
    last = torch.channels_last_3d
    return any(
        each.is_contiguous(memory_format=last) and not each.is_contiguous() for each in kernels
    )
