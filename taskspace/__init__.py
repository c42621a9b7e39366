"""How language models organise grammar: linguistic task spaces from gradient differentials."""

__version__ = "0.1.0"

from taskspace.names import hand_on

# Module -> the names that it hands on. Modules are imported on first use, so that `import taskspace` costs nothing.
__all__, __getattr__, __dir__ = hand_on(__name__, {
    "errors": "TaskspaceError",
    "tasks.catalogue": "load_suite",
    "tasks.pairs": "MinimalPair Suite Task",
    "models.lm": "LM",
    "models.loading": "load_lm",
    "scoring.convention": "Convention",
    "scoring.scores": "score_pairs",
    "tuning.ftgd": "FTGD Tuned tune",
    "tuning.gradients": "gradient_differential",
    "spaces.hypotheses": "hypothesis_space",
    "spaces.space": "TaskSpace",
    "probing.gradient": "gradient_probe predicted_transfer",
    "probing.transfer": "transfer_probe",
    "probing.units": "unit_probe",
    "probing.ablation": "ablated ablation_probe",
    "probing.needs": "data_need",
    "claims.correlates": "correlate",
    "dissimilarity.comparison": "cka_matrix",
    "dissimilarity.measures": "cka procrustes",
    "dissimilarity.states": "hidden_states",
    "dissimilarity.stitching": "stitch",
    "runs.execute": "run_study",
    "runs.extract": "open_extract write_extract",
    "runs.model_comparison": "compare_models rank_models",
    "runs.results": "open_run",
    "runs.study": "Study",
})
