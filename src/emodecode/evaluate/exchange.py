"""Exchange: which labels of a design could have come elsewhere, and random draws of that."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import gammaln
from scipy.stats import binom

from emodecode.errors import InputError

UNITS = ("block", "shift")
UNEQUAL = 1.5
"""Longest over shortest block of a run above which blocks are moved with their lengths."""
COUNTED = 7
"""Up to so many blocks of unequal length, different orders are counted one by one."""
_ACCIDENT = 0.05


class Pool(NamedTuple):
    """Slots among which labels may be exchanged.

    Kinds: ``block``, ``run``, ``subject`` (freely), ``shift`` (in a circle), ``order`` (whole
    blocks put in another order; ``blocks`` numbers the block of each slot, slots in time order).
    """

    slots: np.ndarray
    kind: str
    blocks: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Exchange:
    """How labels may be exchanged.

    Parameters
    ----------
    slot : ndarray of shape (n_samples,), int
        Samples of one slot always carry one label.
    label : ndarray of shape (n_slots,), int
        True class of each slot.
    pools : tuple of Pool
        Slots in none of them keep their label.
    """

    slot: np.ndarray
    label: np.ndarray
    pools: tuple[Pool, ...]

    @property
    def sentence(self) -> str:
        """What was exchanged, for the report."""
        kinds = [pool.kind for pool in self.pools]
        names = {
            "block": "labels of whole blocks exchanged within runs",
            "order": "whole blocks, each with its length, put in another order within runs",
            "shift": "labels shifted in a circle within runs",
            "run": "labels of whole runs exchanged within subjects",
            "subject": "labels of whole subjects exchanged",
        }
        used = [
            f"{text} ({_sets(kinds.count(kind))})" for kind, text in names.items() if kind in kinds
        ]
        return "; ".join(used) or "nothing could be exchanged"

    @property
    def log_arrangements(self) -> float:
        """Logarithm of the number of different labellings.

        Of more than `COUNTED` blocks of unequal length it is an upper bound: blocks of one label
        that come to lie side by side may have any order.
        """
        total = 0.0
        for pool in self.pools:
            if pool.kind == "shift":
                total += np.log(_period(self.label[pool.slots]))
            elif pool.blocks is not None:
                total += _log_block_orders(*_blocks_of(pool, self.label))
            else:
                total += _log_orders(self.label[pool.slots])
        return float(total)


def _sets(n: int) -> str:
    return "1 set of labels" if n == 1 else f"{n} sets of labels"


def make_exchange(
    samples: pd.DataFrame, *, classes: Sequence[str], unit: str = "block"
) -> Exchange:
    """Find out which labels may be exchanged.

    Blocks of one run exchange their labels; where subjects share the design (the same labels in
    the same blocks of the run), they are exchanged for all of these subjects together, unless so
    few blocks could be in the same order by accident and no stimulus is named. Blocks of unequal
    lengths keep their lengths and are put in another order, so that every labelling has as many
    samples of each class (if a class comes in longer blocks, its labels must stay so). A run whose
    blocks hold several labels, or ``unit="shift"``, is shifted in a circle. Runs with one label
    exchange it with the subject's other such runs; subjects with one label, with one another. Rows
    of a feature table are blocks of their own.

    Parameters
    ----------
    samples : DataFrame
        One row per sample: ``subject run volume label``, and ``session``, ``block``, ``onset_s``,
        ``stimulus`` as far as known. Without ``block``, stretches of equal labels are the blocks.
    classes : sequence of str
        Labels are numbered in this order.
    unit : {"block", "shift"}

    Raises
    ------
    InputError
        ``unit="volume"``: single volumes of an autocorrelated run are not exchangeable.
    """
    if unit not in UNITS:
        reason = "neighbouring volumes are nearly equal, so exchanging them one by one"
        raise InputError(
            "chance",
            found=f"unit = {unit!r}" + (f": {reason} breaks the test" if unit == "volume" else ""),
            expected="block (whole blocks within a run) or shift (circular shift per run)",
            remedy='Use unit = "block"; permuting volumes finds "effects" in pure noise.',
        )
    return _Builder(samples, list(classes), unit).build()


def permuted_labels(exchange: Exchange, *, n_permutations: int, seed: int) -> np.ndarray:
    """Draw labellings, shape (n_permutations, n_slots); each pool has its own random child."""
    labels = np.tile(exchange.label.astype(np.int16), (n_permutations, 1))
    children = np.random.SeedSequence(seed).spawn(len(exchange.pools))
    for pool, child in zip(exchange.pools, children, strict=True):
        rng, n = np.random.default_rng(child), len(pool.slots)
        if pool.kind == "shift":
            by = rng.integers(n, size=(n_permutations, 1))
            order = (np.arange(n) + by) % n
            labels[:, pool.slots] = exchange.label[pool.slots][order]
        elif pool.blocks is not None:
            label, length = _blocks_of(pool, exchange.label)
            orders = rng.permuted(np.tile(np.arange(len(label)), (n_permutations, 1)), axis=1)
            for row, order in zip(labels, orders, strict=True):
                row[pool.slots] = np.repeat(label[order], length[order])
        else:
            labels[:, pool.slots] = rng.permuted(labels[:, pool.slots], axis=1)
    return labels


def _blocks_of(pool: Pool, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and length, in slots, of each block of a pool."""
    assert pool.blocks is not None
    first = np.unique(pool.blocks, return_index=True)[1]
    return labels[pool.slots[first]], np.bincount(pool.blocks)


def _period(labels: np.ndarray) -> int:
    """Number of different circular shifts of a sequence."""
    n = len(labels)
    for period in range(1, n):
        if n % period == 0 and np.array_equal(labels, np.roll(labels, period)):
            return period
    return max(n, 1)


class _Owner(NamedTuple):
    """One who has labelled things to exchange: a scan has blocks, a subject has runs."""

    things: dict[Any, int]
    rows: dict[Any, np.ndarray]
    clocked: bool
    stimulus: str = ""


class _Builder:
    """Builds an `Exchange` from the smallest unit that can be exchanged to the largest."""

    def __init__(self, samples: pd.DataFrame, classes: list[str], unit: str) -> None:
        number = {name: code for code, name in enumerate(classes)}
        self.label: np.ndarray = samples["label"].astype(str).map(number).to_numpy(dtype=np.int64)
        self.subject: np.ndarray = samples["subject"].to_numpy(dtype=str)
        run = samples["run"].astype(str)
        if "session" in samples:
            run = samples["session"].astype(str) + " " + run
        self.run: np.ndarray = run.to_numpy(dtype=str)
        self.volume = samples["volume"].to_numpy()
        self.block = samples["block"].to_numpy(dtype=str) if "block" in samples else None
        onset = samples["onset_s"] if "onset_s" in samples else pd.Series(self.volume)
        self.clocked = np.isfinite(onset.to_numpy(dtype=float))
        stimulus = samples["stimulus"].astype(str) if "stimulus" in samples else pd.Series()
        self.stimulus: np.ndarray = stimulus.replace("n/a", "").to_numpy(dtype=str)
        self.unit = unit
        self.slot = np.full(len(samples), -1, dtype=np.int64)
        self.slot_label: list[int] = []
        self.pools: list[Pool] = []

    def build(self) -> Exchange:
        """Runs first, then whole runs, then whole subjects."""
        by_run: dict[str, list[_Owner]] = {}
        shifted: dict[str, list[_Owner]] = {}
        constant: dict[str, dict[str, np.ndarray]] = {}
        frame = pd.DataFrame({"subject": self.subject, "run": self.run})
        scans: Any = frame.groupby(["subject", "run"]).indices
        for (subject, run), rows in sorted(scans.items()):
            rows = rows[np.argsort(self.volume[rows], kind="stable")]
            if len(set(self.label[rows])) == 1:
                constant.setdefault(subject, {})[run] = rows
                continue
            owner = None if self.unit == "shift" else self._blocks(rows)
            if owner is None:
                shifted.setdefault(run, []).append(self._volumes(rows))
            else:
                by_run.setdefault(run, []).append(owner)
        for owners in by_run.values():
            self._add(owners, "block")
        for owners in shifted.values():
            self._add(owners, "shift")
        self._add_constant(constant)
        label = np.array(self.slot_label, dtype=np.int64)
        return Exchange(self.slot, label, tuple(self.pools))

    def _blocks(self, rows: np.ndarray) -> _Owner | None:
        """Blocks of one run, or None where a block holds several labels."""
        if self.block is None:
            new = np.diff(self.label[rows], prepend=-1) != 0
            names: np.ndarray = np.cumsum(new)
        else:
            names = self.block[rows]
        owner = self._owner(rows, names)
        pure = all(len(set(self.label[own])) == 1 for own in owner.rows.values())
        return owner if pure and len(owner.things) > 1 else None

    def _volumes(self, rows: np.ndarray) -> _Owner:
        """Volumes of one run in order; a volume with several labels counts once for each."""
        owner = self._owner(rows, self.volume[rows])
        if all(len(set(self.label[own])) == 1 for own in owner.rows.values()):
            return owner
        key = self.volume[rows] * (self.label.max() + 1) + self.label[rows]
        return self._owner(rows, key)._replace(clocked=False)

    def _owner(self, rows: np.ndarray, names: np.ndarray) -> _Owner:
        found, first, where = np.unique(names, return_index=True, return_inverse=True)
        order = np.argsort(first)
        parts = {found[k].item(): rows[where == k] for k in order}
        things = {name: int(self.label[own[0]]) for name, own in parts.items()}
        seen = set(self.stimulus[rows]) if self.stimulus.size else {""}
        stimulus = seen.pop() if len(seen) == 1 else ""
        return _Owner(things, parts, bool(self.clocked[rows].all()), stimulus)

    def _add_constant(self, constant: dict[str, dict[str, np.ndarray]]) -> None:
        runs, subjects = [], {}
        for subject, by_run in constant.items():
            labels = {run: int(self.label[rows[0]]) for run, rows in by_run.items()}
            rows = np.concatenate(list(by_run.values()))
            if len(set(labels.values())) > 1:
                runs.append(_Owner(labels, by_run, bool(self.clocked[rows].all())))
            else:
                subjects[subject] = rows
        self._add(runs, "run")
        if subjects:
            labels = {name: int(self.label[rows[0]]) for name, rows in subjects.items()}
            self._add([_Owner(labels, subjects, False)], "subject")

    def _add(self, owners: Sequence[_Owner], kind: str) -> None:
        for group in _shared_designs(owners):
            if kind == "block" and (timed := self._timed(group)) is not None:
                self._add_order(group, timed)
                continue
            slots: dict[Any, int] = {}
            for owner in group:
                for name, label in owner.things.items():
                    if name not in slots:
                        slots[name] = len(self.slot_label)
                        self.slot_label.append(label)
                    self.slot[owner.rows[name]] = slots[name]
            ordered = sorted(slots) if kind == "shift" else list(slots)
            pool = np.array([slots[name] for name in ordered])
            if len({self.slot_label[slot] for slot in pool}) > 1:
                self.pools.append(Pool(pool, kind))

    def _timed(self, group: Sequence[_Owner]) -> dict[Any, Any] | None:
        """Block of each volume, in time order; None unless the blocks' lengths differ much."""
        block: dict[Any, Any] = {}
        for owner in group:
            for name, rows in owner.rows.items():
                for volume in self.volume[rows].tolist():
                    if block.setdefault(volume, name) != name:
                        return None  # shown at other volumes to another subject
        names = [block[volume] for volume in sorted(block)]
        lengths = pd.Series(names).value_counts()
        contiguous = sum(a != b for a, b in pairwise(names)) + 1 == len(lengths)
        if not contiguous or lengths.max() <= UNEQUAL * lengths.min():
            return None
        return {volume: block[volume] for volume in sorted(block)}

    def _add_order(self, group: Sequence[_Owner], block: dict[Any, Any]) -> None:
        slots = {volume: len(self.slot_label) + k for k, volume in enumerate(block)}
        label = {name: value for owner in group for name, value in owner.things.items()}
        self.slot_label += [label[name] for name in block.values()]
        for owner in group:
            for rows in owner.rows.values():
                self.slot[rows] = [slots[volume] for volume in self.volume[rows].tolist()]
        codes = pd.factorize(np.array(list(block.values()), dtype=object))[0]
        self.pools.append(Pool(np.array(list(slots.values())), "order", codes))


def _shared_designs(owners: Sequence[_Owner]) -> list[list[_Owner]]:
    """Put owners together whose things of one name carry one label (and who have clocks)."""
    groups: list[tuple[dict[Any, int], list[_Owner]]] = []
    for owner in owners:
        for known, members in groups:
            both = known.keys() & owner.things.keys()
            alike = all(known[name] == owner.things[name] for name in both)
            enough = 2 * len(both) >= min(len(known), len(owner.things))
            if owner.clocked and members[0].clocked and alike and enough:
                known.update(owner.things)
                members.append(owner)
                break
        else:
            groups.append((dict(owner.things), [owner]))
    found: list[list[_Owner]] = []
    for known, members in groups:
        together = _is_known(members) or not _may_be_accident(known, len(members), len(owners))
        found += [members] if together else [[member] for member in members]
    return found


def _is_known(members: Sequence[_Owner]) -> bool:
    """All saw one and the same named stimulus: the common order is no accident."""
    return members[0].stimulus != "" and len({member.stimulus for member in members}) == 1


def _may_be_accident(things: dict[Any, int], n_alike: int, n_owners: int) -> bool:
    """Whether so many of `n_owners` random orders are alike in more than 5 % of such designs."""
    if n_alike < 2:
        return False
    alike = np.exp(-_log_orders(np.array(list(things.values()))))
    return bool(binom.sf(n_alike - 2, n_owners - 1, alike) > _ACCIDENT)


def _log_orders(labels: np.ndarray) -> float:
    counts = np.bincount(labels)
    return float(gammaln(counts.sum() + 1) - gammaln(counts + 1).sum())


def _log_block_orders(label: np.ndarray, length: np.ndarray) -> float:
    """Different labellings that orders of whole blocks give."""
    if len(label) > COUNTED:
        return _log_orders(label * (length.max() + 1) + length)
    orders = np.array(list(permutations(range(len(label)))))
    return float(np.log(len({np.repeat(label[o], length[o]).tobytes() for o in orders})))
