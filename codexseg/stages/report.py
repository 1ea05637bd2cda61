"""Report: write quality.csv and report.html."""

from codexseg.config.schema import Config
from codexseg.io.slides.record import SlideRecord
from codexseg.report.page import REPORT, write_page
from codexseg.report.quality import QUALITY, write_quality
from codexseg.run.records import Record
from codexseg.workflow.stage import BackendRecord, Stage, StageContext
from codexseg.workflow.worker import worker_state


def report(context: StageContext) -> Record:
    """Write the quality table and the page."""
    rows = write_quality(context)
    pictures = write_page(worker_state(context.inputs), rows)
    return {"pictures": pictures, "written": [REPORT, QUALITY]}


def _sample(config: Config, slide: SlideRecord, backend: BackendRecord) -> Record:
    del slide, backend
    return {"sample": config.sample_name}


STAGE = Stage(
    "report",
    ("report",),
    ("load", "patch", "flag", "segment", "stitch", "repair", "profile", "export"),
    report,
    version=2,
    changes={2: "the report shows warnings and the sample"},
    extra=_sample,
)
