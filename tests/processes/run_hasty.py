"""nfsd(8) with the stand-in worker and a master of little patience: `python run_hasty.py BEHAVIOUR OPTIONS...`."""
import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nfsd_master import master

master.ASK_S, master.CONTROL_S = 0.4, 2.0

runpy.run_path(str(Path(__file__).with_name("run_nfsd.py")), run_name="__main__")
