"""Three heads in a stack, and how near two results of the same arithmetic are."""

from torch import Tensor

from heads.tasks import ABAW_TASKS

TASKS = ("va", "expr", "au")
ALL = {name: ABAW_TASKS[name] for name in TASKS}
SEEDS, RATES = (3, 11, 5), (0.1, 0.5, 0.0)
HEADS = range(3)


def assert_near(ours: Tensor, theirs: Tensor, what: object = "") -> None:
    """Equal up to rounding: 1e-5 of the tensor's size, or 5e-7: a step of AdamW moves a weight by some 1e-3, and what
    is near 0 has the rounding of its neighbours."""
    assert ours.shape == theirs.shape, what
    error, size = (ours.double() - theirs.double()).norm(), theirs.double().norm()
    assert error <= 1e-5 * size + 5e-7, (what, float(error), float(size))
