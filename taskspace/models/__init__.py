"""A language model with its tokenizer and identity: loading, checkpoints."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .lm import *  # noqa: F403
    from .loading import *  # noqa: F403
    from .checkpoints import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "lm":
        "context_length weights_digest save_lm LM training_step checkpoint_number checkpoint_folders "
        "checkpoint_folder",
    "loading":
        "causal_config check_options load_lm",
    "checkpoints":
        "path_as_text checkpoint_choice log_spaced ModelSpec Checkpoint step_of check_distinct expand "
        "in_order narrow directory_digests digests check_model loaded_digests",
})
