"""What the gradients of layers say of a fault: arithmetic on norms, and a line for each fault."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

_POINTS = 5  # in a row, before it is no accident
_BEFORE = 10  # points, before a median is one


@dataclass
class Faults:
    """Told the norms of each log point, it says each fault of each layer once.

    Attributes:
        vanishing: a layer's gradient, relative to its weights, is below this part of the largest of all layers'.
        exploding: the gradient of all is above this many times its median so far.
    """

    vanishing: float = 1e-4
    exploding: float = 100.0
    counts: dict[str, int] = field(default_factory=dict)  # points in a row, by fault and layer
    said: list[str] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def at(
        self,
        step: int,
        gradients: Mapping[str, float],
        weights: Mapping[str, float],
        dead: Mapping[str, tuple[int, int]],
    ) -> Sequence[str]:
        """Lines for what is new.

        Args:
            step: from 1.
            gradients, weights: norms by layer.
            dead: by layer that has units, those in whose weights no gradient has come at this and the last points, of
                how many. Only such a layer's gradient vanishes: a bias may be of any size.
        """
        whole, lines = sum(g * g for g in gradients.values()) ** 0.5, []
        if len(self.norms) >= _BEFORE and whole > self.exploding * median(self.norms) > 0:
            worst = max(gradients, key=lambda name: gradients[name])
            lines += self._once("exploding", "", (
                f"step {step:,}: the gradient explodes: {whole:.2g}, {median(self.norms):.2g} before; most in {worst}; "
                "clip it (trainer.gradient_clip_val=1) or lower the rate"
            ))  # fmt: skip
        self.norms.append(whole)
        relative = {name: g / weights[name] for name, g in gradients.items() if weights[name] > 0}
        largest = max(relative.values(), default=0.0)
        for name, gradient in gradients.items():
            none = gradient == 0 and whole > 0
            lines += self._row("none", name, none, (
                f"no gradient has come to {name} at {_POINTS} log points, up to step {step:,}: it does not learn"
            ))  # fmt: skip
            is_small = (
                name in dead and not none and largest > 0 and relative.get(name, largest) < self.vanishing * largest
            )
            lines += self._row("vanishing", name, is_small, (
                f"the gradient of {name} vanishes: by its weights {relative.get(name, 0):.1e}, up to {largest:.1e} in "
                f"others, at {_POINTS} log points up to step {step:,}"
            ))  # fmt: skip
        for name, (units, of) in dead.items():
            if 0 < units < of and 2 * units >= of:
                lines += self._once("dead", name, (
                    f"{units} of {of} units of {name} are dead: no gradient at {_POINTS} log points up to step {step:,}"
                    "; a lower rate, a warm-up or another activation keeps them alive"
                ))  # fmt: skip
        return lines

    def _row(self, fault: str, layer: str, is_there: bool, line: str) -> list[str]:
        key = f"{fault} {layer}"
        self.counts[key] = self.counts.get(key, 0) + 1 if is_there else 0
        return self._once(fault, layer, line) if self.counts[key] >= _POINTS else []

    def _once(self, fault: str, layer: str, line: str) -> list[str]:
        key = f"{fault} {layer}"
        if key in self.said:
            return []
        self.said.append(key)
        return [line]
