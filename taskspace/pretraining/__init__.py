"""Models with a known history: tokens, architectures, training, any text, the built-in scales."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .folders import *  # noqa: F403
    from .tokens import *  # noqa: F403
    from .architectures import *  # noqa: F403
    from .training import *  # noqa: F403
    from .texts import *  # noqa: F403
    from .builtin import *  # noqa: F403
    from .ngram_lm import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "folders":
        "SUMS check_folder read_sums sums_of is_whole checked_sums system_error no_room writing named_errors "
        "save_bytes write_sums",
    "tokens":
        "EOS PAD UNK MASK DOCUMENTS word_tokenizer pack read_texts byte_tokenizer token_file stream_rows",
    "architectures":
        "ACTIVATIONS MODELS ARCHITECTURES tokens_first Output Config CausalModel solu TransformerConfig "
        "TransformerLayer TransformerLM normal_init build twins LSTMConfig LSTMLayer LSTMLM CNNConfig "
        "CNNLayer CNNLM bigram_counts BigramConfig BigramLM call_model logits_of save_model "
        "saved_architecture load_model other_shape new_model",
    "training":
        "TrainingConfig checkpoint_steps learning_rate batch_rows Masking hide hidden_loss rows_loss "
        "mean_loss save_checkpoint load_weights pretrain",
    "texts":
        "ModelConfig TextConfig text_config text_tokenizer pretrain_text",
    "builtin":
        "SCALES RECIPE SENTENCES ROW BATCH STEPS MASKED_STEPS CONTEXT Without Scale builtin_config "
        "builtin_steps builtin_model builtin_tokenizer without_names Rows builtin_rows corpus_digest "
        "builtin_directory builtin_checkpoint builtin_log",
    "ngram_lm":
        "NOTHING VOCABULARY HIGHEST NgramLM save_ngram load_ngram ngram_checkpoint named_ngram",
})
