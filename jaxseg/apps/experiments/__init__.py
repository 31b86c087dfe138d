"""Sweeps: runs that differ in a few settings and in their seeds, trained by one command."""
