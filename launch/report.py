"""`agenttune report RUN`: what a run has done, as one page of HTML with all that it needs in it."""

from __future__ import annotations

from pathlib import Path

from configs.errors import ConfigError
from launch.arguments import Parser
from launch.report_charts import charts
from launch.report_page import page
from launch.report_run import read_run
from trainer.step_log import METRICS

_EPILOG = "example: agenttune report runs/demo writes runs/demo/report.html, while the run goes on too."


def main(argv: list[str]) -> int:
    parser = Parser(
        "agenttune report",
        description="Write one HTML page of a run: curves of loss, accuracy, gradient norm and speed; tables of data, "
        "plan, checkpoints, start and settings.",
        epilog=_EPILOG,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a run's folder, run.output_dir")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: report.html in it")
    values = parser.parse_intermixed_args(argv)
    if not (values.run / METRICS).is_file():
        raise ConfigError(f"{values.run}: no {METRICS} in it; name a run's folder, its run.output_dir")
    run = read_run(values.run)
    out = values.out or values.run / "report.html"
    try:
        out.write_text(page(run, charts(run)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another with --out") from error
    print(out)
    return 0
