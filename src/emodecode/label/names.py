"""What to say about an unknown name."""

import difflib
from collections.abc import Iterable

from emodecode.errors import InputError


def near_name(name: str, known: Iterable, otherwise: str) -> str:
    """``Did you mean 'X'?``, or `otherwise` if nothing is near."""
    near = difflib.get_close_matches(name, [str(item) for item in known], n=1, cutoff=0.5)
    if not near:
        upper = {str(item).upper(): str(item) for item in known}
        near = difflib.get_close_matches(name.upper(), list(upper), n=1, cutoff=0.5)
        near = [upper[item] for item in near]
    return f"Did you mean {near[0]!r}?" if near else otherwise


def check_names(where: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the first name that is not among the known ones."""
    known = sorted(set(known))
    for name in names:
        if name not in known:
            raise InputError(
                where,
                found=f"unknown label {name!r}",
                expected=f"one of {', '.join(known)}",
                remedy=near_name(name, known, "Name a label that occurs."),
            )
