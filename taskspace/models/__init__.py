"""A language model with its tokenizer and identity: loading, checkpoints."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .naming import *  # noqa: F403
    from .lm import *  # noqa: F403
    from .adapters import *  # noqa: F403
    from .loading import *  # noqa: F403
    from .checkpoints import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "naming":
        "UNITS NamePattern TrainingPoint training_point training_step checkpoint_number steps_pattern "
        "point_by stage_title one_training names_meant holds_model folder_points checkpoint_folders "
        "checkpoint_folder point_title axis_title",
    "lm":
        "OBJECTIVES token_id context_length unasked_tokens weights_digest save_lm LM",
    "adapters":
        "Adapter find_adapter base_options attach adapter_parameters settings_digest",
    "loading":
        "lm_config check_options load_lm",
    "checkpoints":
        "path_as_text checkpoint_choice log_spaced ModelSpec Checkpoint moved step_of check_distinct expand "
        "in_order narrow directory_digests digests check_model model_layers loaded_digests",
})
