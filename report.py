"""Writes the verdicts of an experiment: better, worse, or not distinguishable, and how sure.

python report.py tensorboard/intel      # prints summary.md, written with plots beside the logs
"""

import sys
from pathlib import Path

from runtime import cli
from runtime.messages import Refusal
from storage.audit import read_experiment
from verdict.ranking import rank
from verdict.summary import write_report


def main(arguments: list[str] | None = None) -> int:
    """Report on the experiment that the command line names; return the exit status, 0 or 2."""
    parser = cli.Parser("report.py", __doc__)
    parser.add_argument("experiment", type=Path, help="a directory that train.py made")
    try:
        experiment = read_experiment(parser.parse_args(arguments).experiment)
        print(write_report(experiment, rank(experiment)), end="")
    except (Refusal, OSError) as error:
        return cli.refuse("report.py", error)
    return 0


if __name__ == "__main__":
    cli.set_up_streams()
    sys.exit(main())
