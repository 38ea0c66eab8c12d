"""Learning-rate schedules over a whole run. Each is called with the optimizer and, by the model, the run's plan.

All are a factor of the optimizer's rate at each step, the first being 0: the rise of the warm-up times what is said of
each. A warm-up of w steps rises linearly, (step + 1) / (w + 1), as in Goyal et al. (2017), arXiv 1706.02677. The last
step of a run is number `total_steps` - 1; from there on the factor stays.
"""

from metronome.models.schedulers.curves import cosine, onecycle, wsd
from metronome.models.schedulers.plateau import Plateau
from metronome.models.schedulers.stairs import constant, multistep, step

__all__ = ["Plateau", "constant", "cosine", "multistep", "onecycle", "step", "wsd"]
