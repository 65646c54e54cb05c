"""The exceptions that a user may catch; every message has the same four parts."""


class EmodecodeError(Exception):
    """An error with four parts: where, what was found, what was expected, what to do.

    Parameters
    ----------
    where : str
        The file, run, study key or row that is wrong (``"sub-03 run-2"``).
    found : str
        What was found there.
    expected : str
        What would have been right.
    remedy : str
        What the user can do about it.
    """

    def __init__(self, where: str, *, found: str, expected: str, remedy: str) -> None:
        self.where, self.found, self.expected, self.remedy = where, found, expected, remedy
        super().__init__(where, found, expected, remedy)

    def __str__(self) -> str:
        parts = f"{self.where}: {self.found}", f"expected: {self.expected}"
        lines = (*parts, f"what to do: {self.remedy}")
        return "\n".join(" ".join(line.split()) for line in lines)

    def __reduce__(self):
        return _rebuild, (type(self), self.where, self.found, self.expected, self.remedy)


def _rebuild(kind, where, found, expected, remedy):
    return kind(where, found=found, expected=expected, remedy=remedy)


class InputError(EmodecodeError, ValueError):
    """Data, a study or an argument that cannot be used as it is."""


class LeakageError(EmodecodeError):
    """A split or a step by which the test data would reach the training."""


class NotCalibratedError(EmodecodeError):
    """A subject-aware step was asked for a subject that it has not been adapted to."""


class ContractError(EmodecodeError):
    """Data of another shape, affine or TR than a decoder's, or a decoder that was changed."""


class DataMissingError(EmodecodeError, FileNotFoundError):
    """A file that is named but not there, or not downloaded."""
