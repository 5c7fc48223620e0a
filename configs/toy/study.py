"""What interaction does for a small policy: pipeline.py's training, and then the study of what it learned.

    mirothinker-study --config toy/study --config.run_dir=runs/study
    mirothinker-study --config toy/study --from runs/toy          # asks the policy of a run that is there

Training takes about a quarter of an hour on two cores, the study some minutes more.
"""

import runpy
from pathlib import Path


def get_config():
    c = runpy.run_path(str(Path(__file__).with_name("pipeline.py")))["get_config"]()
    c.run_dir = "runs/study"
    c.study.questions = 105  # fifteen of each depth
    return c
