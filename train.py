"""Trains a network: python train.py --config configs/X.py --workdir DIR [--section.setting value ...]."""

from jaxseg import cli

if __name__ == "__main__":
    cli.guarded(cli.train)
