"""`python -m wcodec`: the command line."""

from wcodec.cli import main

main()
