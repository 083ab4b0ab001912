"""`python -m nfsd_master` is nfsd(8)."""
import sys

from .nfsd import main

sys.exit(main())
