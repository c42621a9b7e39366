"""How differently two models represent the same text: measures, states, stitching, comparison."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .measures import *  # noqa: F403
    from .states import *  # noqa: F403
    from .stitching import *  # noqa: F403
    from .comparison import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "measures":
        "RowSums hsic_of_sums as_matrix rounding above_rounding ExactCKA centred_grams MinibatchCKA cka "
        "procrustes mean_matching",
    "states":
        "POSITIONS layer_numbers capture replacing Encoded text_list is_encoder encode_text pad text_batches "
        "Reader own_tokens stream_states hidden_states",
    "stitching":
        "KINDS StitchMap fit_map Stitched text_losses Stitch stitch scrambled stitch_controls",
    "comparison":
        "EXACT_LIMIT paired_states cka_states cka_matrix model_distance cka_models Blocks block_structure "
        "matched_similarity",
})
