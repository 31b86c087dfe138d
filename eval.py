"""Measures a trained network: python eval.py --workdir DIR [--split val] [--data.root ELSEWHERE] [--output DIR]."""

from jaxseg import cli

if __name__ == "__main__":
    cli.guarded(cli.evaluate)
