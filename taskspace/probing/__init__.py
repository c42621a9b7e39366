"""Task spaces that are measured: by gradients, transfer, units, and by what tasks need of the text."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .participation import *  # noqa: F403
    from .measures import *  # noqa: F403
    from .differentials import *  # noqa: F403
    from .gradient import *  # noqa: F403
    from .rows import *  # noqa: F403
    from .row_spaces import *  # noqa: F403
    from .transfer import *  # noqa: F403
    from .agreement import *  # noqa: F403
    from .precision import *  # noqa: F403
    from .partial import *  # noqa: F403
    from .parts import *  # noqa: F403
    from .sites import *  # noqa: F403
    from .units import *  # noqa: F403
    from .ablation import *  # noqa: F403
    from .interchange import *  # noqa: F403
    from .needs import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "participation":
        "FEWEST_BLOCKS RELIABLE block_moments ActiveShare active_share",
    "measures":
        "SpacesByMeasure GradientSpaces",
    "differentials":
        "SHARED fold_vector fold_width Fold fold_error deal_pairs subspace_bytes Subspaces inner_products "
        "BlockProducts block_products shared_places Moments Differentials group_sums collect_subspaces "
        "collect_differentials step_products",
    "gradient":
        "WITHOUT participation_table distribution gradient_probe predicted_transfer",
    "rows":
        "transfer_row",
    "row_spaces":
        "METRICS NORMALISATIONS check_metric moved_by_seeds space_from_rows",
    "transfer":
        "COPIES split_sizes seed_list measure_rows transfer_probe",
    "agreement":
        "FEWEST_CELLS prediction_agreement",
    "precision":
        "precision_effect",
    "partial":
        "LEAST_SURE FEWEST LEVEL FEWEST_DRAWN OWN UNSURE DRAWN REST cell_doubt CellCounts check_share "
        "cells_each choose_cells chosen_targets completed_space completed_by_gain mean_prediction complete_by "
        "partial_transfer_probe",
    "parts":
        "WAYS RATES EFFECTS tuning_path tuning_grid gain_within_harm compare_paths at_best_rate part_effects",
    "sites":
        "UNITS state_of with_state given_state cut_state filled_state find_blocks Site find_sites SiteHook "
        "at_sites read_states",
    "units":
        "POSITIONS METHODS SHUFFLES SPLITS Sentence sentences_of activations attributions welch paired "
        "largest Units units_at task_units UnitSpaces unit_probe",
    "ablation":
        "VALUES NEAR UnitNorms unit_norms ablated matched_units ablation_row ablation_space AblationSpaces "
        "ablation_probe",
    "interchange":
        "is_aligned first_difference aligned_task patched interchange_effects task_direction interchange_row "
        "InterchangeSpaces interchange_space interchange_probe interchange_source",
    "needs":
        "EVERYTHING named_needs need_table need_auc need_space need_scores DataNeed data_need save_need "
        "load_need",
})
