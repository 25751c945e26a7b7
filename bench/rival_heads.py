"""Heads on cached embeddings as users of scikit-learn and plain PyTorch write them: rivals of `mtl train-head`.

Nothing in these files knows of `heads` or `pipelines`. A rival sees embeddings and labels, chooses its regularisation
or its epoch on the select rows, and predicts every row.
"""

import functools
from collections.abc import Mapping

from bench.rival_abaw11 import LeadingGru, LeadingLatent, LeadingStateSpace, LeadingTcn, LeadingTransformer
from bench.rival_frames import Frames, Predicted
from bench.rival_linear import linear_models
from bench.rival_networks import Gru, Latent, MultiScaleTcn, PerFrame, StateSpace, Tcn, Transformer
from bench.rival_training import Recipe, train_network
from bench.rival_trees import boosted_trees

VERSION = 2  # of the recipes: what was kept of another one is trained again
LEADING = functools.partial(
    Recipe, batch=32, epochs=25, patience=25, weight_decay=1e-4, drawn=False, leading=True
)  # as the script of ABAW11's leading entry has it
RECIPES: Mapping[str, Recipe] = {
    "mlp": Recipe(model=PerFrame, window=1, stride=1, batch=256),
    "gru": Recipe(model=Gru),
    "latent": Recipe(model=Latent),
    "tcn": Recipe(model=Tcn),
    "tcn-multi": Recipe(model=MultiScaleTcn),
    "transformer": Recipe(model=Transformer, lr=5e-4),
    "ssm": Recipe(model=StateSpace),
    "abaw11": LEADING(model=LeadingGru),
    "abaw11 latent": LEADING(model=LeadingLatent),
    "abaw11 tcn": LEADING(model=functools.partial(LeadingTcn, branches=((1, 2, 4, 8),))),
    "abaw11 tcn-multi": LEADING(model=functools.partial(LeadingTcn, branches=((1,), (1, 2), (4, 8)))),
    "abaw11 transformer": LEADING(model=LeadingTransformer),
    "abaw11 ssm": LEADING(model=LeadingStateSpace),
}


def fit_rival(name: str, frames: Frames, seed: int) -> Predicted:
    """What the rival `name` predicts of the select and report rows, trained on the train rows."""
    if name == "linear":
        return linear_models(frames, seed)
    return boosted_trees(frames, seed) if name == "trees" else train_network(RECIPES[name], frames, seed)


NAMES = ("linear", "trees", *RECIPES)
