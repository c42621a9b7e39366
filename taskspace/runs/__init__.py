"""Studies, jobs, the store, executing, results, extracts."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .store import *  # noqa: F403
    from .study import *  # noqa: F403
    from .formats import *  # noqa: F403
    from .jobs import *  # noqa: F403
    from .plans import *  # noqa: F403
    from .status import *  # noqa: F403
    from .readings import *  # noqa: F403
    from .waiting import *  # noqa: F403
    from .run_spaces import *  # noqa: F403
    from .tracking import *  # noqa: F403
    from .results import *  # noqa: F403
    from .shards import *  # noqa: F403
    from .execute import *  # noqa: F403
    from .slurm import *  # noqa: F403
    from .cost import *  # noqa: F403
    from .estimate import *  # noqa: F403
    from .summaries import *  # noqa: F403
    from .predictions import *  # noqa: F403
    from .run_evidence import *  # noqa: F403
    from .extract import *  # noqa: F403
    from .model_comparison import *  # noqa: F403
    from .run_correlates import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "store":
        "in_use StorePaths check_places check_kind shard_folders busy_shards checksum put_result read_result "
        "result_files result_sizes sound_results valid_sizes set_aside clean_results write_log log_entries "
        "Store put_current keep_only get_current",
    "study":
        "TransferCells Probe PROBES Control CONTROLS Study parse_study naming_study read_study public_study",
    "formats":
        "as_written check_columns suite_to_json suite_from_json compress_suite decompress_suite to_bytes "
        "from_bytes states_to_frame frame_to_states result_from_bytes spaces_to_frame frame_to_spaces "
        "units_to_frame frame_to_units space_to_frame frame_to_space",
    "jobs":
        "STATE_TEXTS STATE_CHECKPOINTS WHOLE_SUITE SOURCES GRADIENT_BLOCKS GRADIENT_MEMORY code_version Job "
        "seed_of reference_text state_texts Plan job_settings prediction_of chosen_by list_jobs job_payload "
        "ModelChanged compute work",
    "plans":
        "save_plan load_plan training_numbers RunData NotThere find_model find_checkpoint "
        "find_tuned_checkpoint finished_results",
    "status":
        "duration failure_lines Status last_entries run_status job_log",
    "readings":
        "run_scores transfer_jobs rows_at ablation_rows_at interchange_rows_at transfer_rows tuning_logs "
        "states_at run_states run_provenance",
    "waiting":
        "Waiting with_predictions",
    "run_spaces":
        "mean_space gradients_at run_gradients units_at run_units space_at run_interchange run_space",
    "tracking":
        "TRACKERS Tracker tracker_of Watch",
    "results":
        "Run open_run",
    "shards":
        "Shard shard_of shares shard_store check_free shard_locked join_shards unfinished dead_shards claimed "
        "taken_over known_digests remember_digests forget_digests merge_shards",
    "execute":
        "dask_executor run_study plan_study demo_study example_study example_run",
    "slurm":
        "SlurmJob check_job slurm_scripts find_sbatch write_scripts submit_scripts",
    "cost":
        "FOLDED TERMS Shape Work Terms time_terms Held memory_terms Rates fit_rates Cost job_cost "
        "measured_costs usual_rates with_estimates exponents",
    "estimate":
        "folder_shape gguf_shape checkpoint_shape pair_tokens job_work result_bytes correct_seconds Estimate "
        "estimate_study",
    "summaries":
        "missing missing_line learning_curves checkpoint_places checkpoint_spaces distributedness with_unit "
        "parameter_counts last_accuracy findings_of claims_of",
    "predictions":
        "predicted_agreement",
    "run_evidence":
        "KINDS_TO_EXPLAIN space_to_explain explained signs_of opposed_scores explained_models "
        "explained_training signs_training",
    "extract":
        "KINDS DECIMALS space_rows space_of space_tests explained_rows hypothesis_rows joined write_extract "
        "Extract open_extract retest_extract",
    "model_comparison":
        "SCORE_FILES Source read_scores last_run_scores is_run has_scores score_tables compare_models "
        "rank_models comparison_text ranking_text",
    "run_correlates":
        "read_correlates correlate_run correlate_sources correlates_text",
})
