"""A page for training runs, from their logs: `l2t-verl report RUN…`."""

from l2t_verl.report.page import write_report
from l2t_verl.report.runs import ReportError, Run, read_runs

__all__ = ["ReportError", "Run", "read_runs", "write_report"]
