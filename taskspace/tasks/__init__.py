"""Minimal pairs, tasks and suites: splits, readers, the catalogue of named suites, the built-in English."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .pairs import *  # noqa: F403
    from .splits import *  # noqa: F403
    from .conditional import *  # noqa: F403
    from .mapping import *  # noqa: F403
    from .readers import *  # noqa: F403
    from .hub import *  # noqa: F403
    from .syntaxgym import *  # noqa: F403
    from .lexicon import *  # noqa: F403
    from .grammar import *  # noqa: F403
    from .languages import *  # noqa: F403
    from .catalogue import *  # noqa: F403
    from .exports import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "pairs":
        "COLUMNS CONDITIONAL text_fault Option MinimalPair pair_names checked_seed Split Task suite_to_frame "
        "suite_digest Suite template_parts template_fields filled joined renamed",
    "splits":
        "ATTEMPTS bundles leak_free_split",
    "conditional":
        "PAIR_FIELDS is_conditional conditional_pair ewok_pairs",
    "mapping":
        "Source GIVEN KNOWN NEEDED Getter GOOD_LABELS BAD_LABELS SuiteMapping suite_mapping Table cell_text "
        "mapped_rows",
    "readers":
        "LABELS READERS normalise same_but_for_form suite_from_rows suite_from_frame json_object "
        "rows_of_jsonl table_of_file suite_from_tables suite_from_file files_of_folder tables_of_folder "
        "suite_from_folder",
    "hub":
        "suite_from_hub",
    "syntaxgym":
        "Formula LEVELS LONGEST RELATIVE ABSOLUTE METRICS Region Operation parse_formula regions_in evaluate "
        "criterion_margin Condition Item Criterion RegionSuite read_syntaxgym suite_of_criteria "
        "suite_from_syntaxgym",
    "lexicon":
        "SINGULAR PLURAL PAST PARTICIPLE IRREGULAR_NOUNS IRREGULAR_VERBS LEXICONS noun verb word_forms "
        "open_words",
    "grammar":
        "RULES FIELDS NEAR ADVERBS NUMBERS DEMONSTRATIVES DETERMINERS SELF OWN BE WAS HAVE CONSTRUCTIONS "
        "PLAIN SHOWS NOUNS PERSONS REFLEXIVES LISTS SHOWN CLOSED Choices Draw Construction construction sides "
        "subject_verb_across_phrase subject_verb_across_clause determiner_noun determiner_adjective_noun "
        "reflexive_gender reflexive_across_phrase reflexive_across_clause object_or_none what_or_that "
        "adjunct_island tough_or_raising noun_ellipsis past_or_participle ever_with_negative_object "
        "ever_outside_negative_clause there_or_nearly plain simple_clause clause_with_thing "
        "clause_with_person plural_reflexive reflexive_in_clause emphasis own_thing description question "
        "passive two_clauses perfect negation object_clause spell held_out shown_by shows left_out "
        "hidden_rules text_left never_read corpus vocabulary builtin_suite task_table needs_table",
    "languages":
        "data_table language_groups common_phenomena",
    "catalogue":
        "BLIMP SOURCES FOLDERS blimp_from_directory blimp_from_hub zorro_from_directory ewok_from_folder "
        "known_suites load_suite",
    "exports":
        "suite_to_file suite_to_lm_eval",
})
