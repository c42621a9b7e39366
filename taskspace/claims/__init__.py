"""What a study says of the claims of the paper."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .verdicts import *  # noqa: F403
    from .judging import *  # noqa: F403
    from .means import *  # noqa: F403
    from .comparing import *  # noqa: F403
    from .correlates import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "verdicts":
        "CLAIMS VERDICTS MODEL_COLUMNS REPLICATED SHARING JUDGED Finding levels_text no_data judge "
        "verdict_of_models verdict_of_parts spread_over_trainings over_models paired claim_a claim_b claim_c "
        "claim_d claim_e",
    "judging":
        "Spaces by_model passing_tasks findings claims_table models_table claims",
    "means":
        "LEVELS ACCURACY DIFFERENCE means_by_group task_means several_sources one_source normalised_correct "
        "accuracy_intervals",
    "comparing":
        "OVER scoring_rule mcnemar_p compare_scores pairwise_tests indistinct_groups rank_scores",
    "correlates":
        "LEAST MOST_SKEWED checked_correlates checkpoint_means correlate matching_checkpoints "
        "correlates_together",
})
