"""When successive halving ends trials; no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016): after `first`, first x `factor`, .. steps, the best
    1/`factor` of a stack's strategies continue; each at the first evaluation at or after such a step."""

    factor: int
    first: int

    def is_rung(self, before: int, step: int, num_steps: int) -> bool:
        """Whether a rung lies after `before`, the step of the last evaluation, and at or before `step`."""
        rung = self.first
        while rung <= before:
            rung *= self.factor
        return rung <= step < num_steps
