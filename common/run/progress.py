"""How far a run is: its stages, epochs and steps, and the best figure so far."""

import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """The place in a run, plain values; a part of its state."""

    stage: str = ""
    epoch: int = 0  # complete ones of this stage
    step: int = 0  # complete ones of this epoch
    epochs_done: int = 0  # of all stages
    best: float = -math.inf  # PSNR-Y of this stage
    epochs_since_best: int = 0
    figures: dict[str, float] = field(default_factory=dict)  # the last step's, for the log
    finished: dict[str, int] = field(default_factory=dict)  # stages, and the epochs they were given
    networks: list[str] = field(default_factory=list)  # names of those that were written
