"""How a sentence becomes a number: conventions, encoding, log-probabilities, scores."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .convention import *  # noqa: F403
    from .masking import *  # noqa: F403
    from .offsets import *  # noqa: F403
    from .encoding import *  # noqa: F403
    from .prefixtree import *  # noqa: F403
    from .causality import *  # noqa: F403
    from .logprobs import *  # noqa: F403
    from .masked import *  # noqa: F403
    from .scores import *  # noqa: F403
    from .regions import *  # noqa: F403
    from .criteria import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "convention":
        "METHODS MASKED_METHODS REDUCTIONS CONVENTIONS Convention convention_of default_method",
    "masking":
        "Mask Masked masks_of masked_input",
    "offsets":
        "token_offsets first_after",
    "encoding":
        "prefix_id vocabulary_size method_of convention_record EncodedPair encode_sentences Encoded "
        "encode_options encode_masked encode_pairs",
    "prefixtree":
        "PrefixTree prefix_tree Row sentence_rows shared_rows separate_rows visible inputs",
    "causality":
        "LENGTH REPEATS SAME_ROW_TOLERANCE ROUNDING_UNITS LARGEST_COPY evaluating check_logits autocast "
        "is_rough check_causal check_masked",
    "logprobs":
        "SLICE KEPT STEEP BITS SHARED_ROW_TYPES LIBRARIES MINUS LAST_TYPES PADDED KEPT_OUT ROW BUDGET WORKERS "
        "CELLS LOGITS gradient_rows linear_logprobs Shortcuts Batch logprobs_at find_shortcuts fingerprint "
        "one_length batches padded edge_logprobs row_size token_logprobs summed_logprobs tokens_at_once "
        "even_batches side_by_side sequence_logprobs",
    "masked":
        "THREADED_TYPES PIECE Questions questions_of answers batches_of masked_logprobs",
    "scores":
        "score_pairs score_sentences accuracy text_loss",
    "regions":
        "UNITS Regions token_table label_tokens region_logprobs words_between_spaces word_logprobs",
    "criteria":
        "region_surprisals score_criteria item_accuracy",
})
