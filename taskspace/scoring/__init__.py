"""How a sentence becomes a number: conventions, encoding, log-probabilities, scores."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .convention import *  # noqa: F403
    from .offsets import *  # noqa: F403
    from .encoding import *  # noqa: F403
    from .prefixtree import *  # noqa: F403
    from .causality import *  # noqa: F403
    from .logprobs import *  # noqa: F403
    from .scores import *  # noqa: F403
    from .regions import *  # noqa: F403
    from .criteria import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "convention":
        "METHODS REDUCTIONS CONVENTIONS Convention convention_of",
    "offsets":
        "token_offsets first_after",
    "encoding":
        "prefix_id vocabulary_size convention_record EncodedPair encode_sentences Encoded encode_options "
        "encode_pairs",
    "prefixtree":
        "PrefixTree prefix_tree Row sentence_rows shared_rows visible inputs",
    "causality":
        "LENGTH ROUNDING TWICE evaluating check_logits autocast check_causal",
    "logprobs":
        "SLICE BITS SHARED_ROW_TYPES LIBRARIES MINUS ROW BUDGET WORKERS CELLS LOGITS linear_logprobs "
        "Shortcuts find_shortcuts batches row_size token_logprobs sequence_logprobs",
    "scores":
        "score_pairs score_sentences accuracy text_loss",
    "regions":
        "UNITS Regions token_table label_tokens region_logprobs words_between_spaces word_logprobs",
    "criteria":
        "region_surprisals score_criteria item_accuracy",
})
