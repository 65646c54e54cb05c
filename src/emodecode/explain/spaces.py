"""Template spaces: the names that maps and atlases are tagged with."""

from emodecode.errors import InputError

ANY_MNI152 = "MNI152"
"""Space of what fits every MNI152 template within its own precision, or of an unnamed one."""

MNI_SPACES = (
    ANY_MNI152,
    "MNI152Lin",
    "MNI152NLin6Asym",
    "MNI152NLin6Sym",
    *(f"MNI152NLin2009{version}{shape}" for version in "abc" for shape in ("Asym", "Sym")),
    "MNIColin27",
    "IXI549Space",
)
"""Spaces of adult heads in MNI coordinates, by their TemplateFlow (BIDS) names."""

_ALIASES = {"mni": ANY_MNI152, "fslmni152": "MNI152NLin6Asym", "mni152nlin6": "MNI152NLin6Asym"}
_OF_ONE_SUBJECT = {"t1w", "t2w", "bold", "func", "anat", "native", "subject", "individual"}
_OF_ONE_SUBJECT |= {"orig", "scanner", "scanner-native", "fsnative"}


def space_name(space: str | None) -> str:
    """Return a space in one spelling: ``"space-MNI152NLin6Asym_res-2"`` -> ``"MNI152NLin6Asym"``.

    Raises
    ------
    InputError
        Spaces that are unknown, of one subject, or in no MNI coordinates.
    """
    tag = (space or "").strip().removeprefix("space-").split(":")[0].split("_res-")[0]
    known = {name.lower(): name for name in MNI_SPACES} | _ALIASES
    if tag.lower() in known:
        return known[tag.lower()]
    if tag.lower() in _OF_ONE_SUBJECT:
        found = f"the space {tag}: coordinates of one subject, where no atlas holds"
    elif tag.lower() in ("", "n/a", "mni?", "unknown"):
        found = "no space: nothing says which template the coordinates are of"
    else:
        found = f"the space {tag}"
    raise InputError(
        "space",
        found=found,
        expected="a template in MNI coordinates (" + ", ".join(MNI_SPACES) + ")",
        remedy="Normalise the data to MNI and run the study on that (fMRIPrep: --output-spaces "
        "MNI152NLin6Asym), or, where they are in MNI already, pass space=.",
    )
