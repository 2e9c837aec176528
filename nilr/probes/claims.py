"""The four signs that Starshak (Negative Inner-Loop Learning Rates Learn Universal Features, 2022) claims.

They are of nearest-neighbour accuracy against the meta-initialisation: MAML gains on the same task and loses on another
one; Meta-SGD loses on the same task and gains on another one.
"""

from __future__ import annotations

# algorithm -> protocol -> the sign of the claimed change
CLAIMS: dict[str, dict[str, int]] = {
    "maml": {"same-task": 1, "cross-task": -1},
    "metasgd": {"same-task": -1, "cross-task": 1},
}
