"""`python -m eight`."""

import sys

from eight.prove import main

sys.exit(main())
