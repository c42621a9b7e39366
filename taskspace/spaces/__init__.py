"""Task spaces: statistics, resampling, hypotheses, trees and maps."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .statistics import *  # noqa: F403
    from .resampling import *  # noqa: F403
    from .change import *  # noqa: F403
    from .sentence_similarity import *  # noqa: F403
    from .ngrams import *  # noqa: F403
    from .trees_and_maps import *  # noqa: F403
    from .space import *  # noqa: F403
    from .combining import *  # noqa: F403
    from .testing import *  # noqa: F403
    from .saving import *  # noqa: F403
    from .views import *  # noqa: F403
    from .hypotheses import *  # noqa: F403
    from .explaining import *  # noqa: F403
    from .signs import *  # noqa: F403
    from .levels import *  # noqa: F403
    from .sharing import *  # noqa: F403
    from .crossed import *  # noqa: F403
    from .method_agreement import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "statistics":
        "ALTERNATIVES METHODS square cells from_cells ranks ranks_of_some task_permutations permuted_products "
        "permutation_p Test known_labels within_across left_out_aucs mantel orthonormal_basis partial_mantel "
        "mrqap benjamini_hochberg student_quantile student_tail student_interval sign_flip_p Estimate "
        "over_seeds cost_at",
    "resampling":
        "RELIABLE resample_means split_halves replicate_variance degrees_of_freedom widening interval "
        "cell_tests auc_of correlation_of unit_cells noise_variance filled_replicates measurement_errors "
        "StatisticInterval reliability_of least_reliability stretch unstretch stretched_interval "
        "spread_interval statistic_interval jackknife_error left_out_interval jackknife_interval "
        "left_out_table noise_ceiling asymmetry",
    "change":
        "reliability Measured Course common_error corrected_agreement agreement_again agreement stability "
        "change_point agreement_without corrected_without shares_without",
    "sentence_similarity":
        "EDITS words differing_region word_likeness edit edit_table edit_likeness length_likeness same_label "
        "set_likeness",
    "ngrams":
        "BEGIN END token_sequences ngram_contrast ngram_likeness",
    "trees_and_maps":
        "EMBEDDINGS task_distances Clustering cluster cluster_stability classical_scaling stress embed align "
        "align_series",
    "space":
        "TaskSpace",
    "combining":
        "take_tasks select_tasks complete_tasks transform_space group_labels average_groups centre symmetrise "
        "combine",
    "testing":
        "attach_interval within_across_groups aligned_to compare_spaces regress_space noise_ceiling_of "
        "significant_cells",
    "saving":
        "save_space load_space",
    "views":
        "long_table cell_table stability_of_clusters map_of_tasks",
    "hypotheses":
        "HYPOTHESES ACROSS_LANGUAGES hypothesis_space hypothesis_spaces opponents",
    "explaining":
        "FAMILIES UNEXPLAINED cell_columns explained_share family_of Explanation explain_space "
        "explanation_rows explain_course",
    "signs":
        "group_aucs signs_table opposed_contrasts opposition_scores opposition_by_group",
    "levels":
        "LEVELS Error left_out_error level_errors level_error_over_pairs levels_table level_intervals widest",
    "sharing":
        "Figure FIGURES odds_against_chance sharing_figure sharing_table",
    "crossed":
        "crossed_table",
    "method_agreement":
        "TURNED CAUSAL over_trainings aligned_methods method_table predictors space_of_counts map_agreement",
})
