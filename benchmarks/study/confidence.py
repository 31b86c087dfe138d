"""Measures runs under confidences from 0.05 to 0.9, the other thresholds as in their configs.

python benchmarks/study/confidence.py --workdir DIR [DIR ...]

A loss that makes centers less confident finds as much with a lower threshold, so that variants are compared at their
own best one too. Writes confidence.json to each DIR: AP and AP50 of each, and the best by AP.
"""

import argparse
import itertools

from jaxseg import runtime
from jaxseg.apps import files, model
from jaxseg.apps.evaluation import sweep
from jaxseg.data import pipeline, prepare
from jaxseg.train import storage

CONFIDENCES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9)


def main() -> None:
    """Evaluates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, nargs="+", help="folders of runs")
    given = parser.parse_args()
    runtime.prepare()
    for name in given.workdir:
        workdir = storage.folder(name)
        settings = model.read_config(workdir)
        data, layout = prepare.resolve(settings.data)
        examples = pipeline.val_examples(prepare.dataset(data, layout).split("val", full=True))
        own = settings.grouping
        tried = list(itertools.product(CONFIDENCES, (own.assignment,), (own.duplicate,)))
        rows = sweep.measure(model.load(workdir, settings), examples, tried)
        best = max(rows, key=lambda row: (row["ap"] or 0.0, row["ap50"] or 0.0))
        files.write_json(workdir / "confidence.json", {"best": best, "rows": rows})


if __name__ == "__main__":
    main()
