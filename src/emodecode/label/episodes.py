"""Consensus of observers over time -> episodes: stretches of one label."""

import numpy as np
import pandas as pd

from emodecode.label.consensus import Votes, find_consensus


def find_episodes(
    votes: Votes, *, agreement: float = 0.5, break_ties: bool = False
) -> pd.DataFrame:
    """Find the stretches of stimulus time in which the observers agree on one label.

    Parameters
    ----------
    votes : Votes
        From :func:`emodecode.label.consensus.cast_votes`.
    agreement, break_ties
        See :func:`emodecode.label.consensus.find_consensus`.

    Returns
    -------
    DataFrame
        ``start_s end_s emotion`` in the order of time, seconds on the clock of the stimulus;
        moments without consensus are in none.
    """
    winner, _ = find_consensus(votes.fractions, agreement=agreement, break_ties=break_ties)
    first = np.flatnonzero(np.append(True, winner[1:] != winner[:-1]))
    stop = np.append(first[1:], len(winner))
    kept = winner[first] >= 0
    names = np.array(votes.labels, dtype=object)
    return pd.DataFrame(
        {
            "start_s": first[kept] * votes.grid_s,
            "end_s": stop[kept] * votes.grid_s,
            "emotion": names[winner[first[kept]]],
        }
    )
