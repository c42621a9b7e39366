"""Gradient differentials, and tuning with them."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .ftgd_settings import *  # noqa: F403
    from .gradients import *  # noqa: F403
    from .ftgd import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "ftgd_settings":
        "Update Optimizer Scope UPDATES OPTIMIZERS SCOPES FTGD",
    "gradients":
        "COMPONENTS TOKENS parameter_table output_layer trainable undisturbed Part contrast likelihood "
        "backpropagate margins against_best encode_task accumulate gradient_differential top_k scope_groups "
        "places_kept subspace",
    "ftgd":
        "read_at write_at Tuned apply_tuned save_tuned load_tuned tune",
})
