"""What a study says of the claims of the paper."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .verdicts import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "verdicts":
        "CLAIMS VERDICTS REPLICATED SHARING Finding levels_text no_data judge both paired harm_at claim_a "
        "summarised claim_b claim_c claim_d claim_e findings claims",
})
