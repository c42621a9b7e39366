"""Charts, pages and the website of a run."""
# Made by tools/packages.py from what the modules export.
from typing import TYPE_CHECKING

from taskspace.names import hand_on

if TYPE_CHECKING:
    from .escaping import *  # noqa: F403
    from .renderer import *  # noqa: F403
    from .charts import *  # noqa: F403
    from .evidence import *  # noqa: F403
    from .unit_charts import *  # noqa: F403
    from .checkpoints import *  # noqa: F403
    from .templates import *  # noqa: F403
    from .pages import *  # noqa: F403
    from .answers import *  # noqa: F403
    from .site import *  # noqa: F403
    from .exports import *  # noqa: F403
    from .single_file import *  # noqa: F403
    from .pdf import *  # noqa: F403

__all__, __getattr__, __dir__ = hand_on(__name__, {
    "escaping":
        "in_markdown in_html in_yaml in_script in_chart in_csv",
    "renderer":
        "MIME to_columns html mimebundle enable asset write_bundle",
    "charts":
        "GROUP_COLOURS DIVERGING SEQUENTIAL FONT INK config save headline group_means heatmap task_map "
        "clustermap network small_multiples fixed_colours curves training_curves scale_curves stability_chart "
        "forest frontier layers before_after",
    "evidence":
        "PART_COLOURS explanation_chart explanation_course signs_chart opposition_chart",
    "unit_charts":
        "layer_chart interchange_chart interchange_charts",
    "checkpoints":
        "called checkpoint_names scores_at last_scores with_phenomena repeated_steps by_unit",
    "templates":
        "page_templates template parameters check_parameters check execute",
    "pages":
        "for_page page proportioned methods Tiles",
    "answers":
        "what_was_run how_good what_map grammar_or_words how_sure Answer Answers five_answers",
    "site":
        "mean_accuracy all_spaces data_tables write_data site_renderer run_quiet render own_pages "
        "check_values render_report",
    "exports":
        "WIDTHS EXPORTS ExportOptions paper_tables latex_table write_latex write_csv report_charts draw "
        "write_figures lm_eval_results write_lm_eval write_hub write_archive export_run",
    "single_file":
        "LARGEST report_pages write_single_file",
    "pdf":
        "html_as_markdown report_text pdf_format write_pdf",
})
