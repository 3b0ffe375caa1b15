"""Verdicts, feedback and audit labels as the preference pairs and labelled replies that the trainer reads.

A pair comes from a review that chose or wrote another reply, from an application's preference, from an audit. A
labelled reply comes from any verdict on the winner, and carries the chance with which it was judged: reviews see the
doubtful answers more often than others. Dates are those of the judgment.
"""
