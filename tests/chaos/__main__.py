"""`python -m chaos`. Apart from `prove.py`, since every process that is forked would import the main module again."""

import sys

from chaos.prove import main

sys.exit(main())
