"""`python -m amodal`."""

from amodal.cli.main import run

run()
