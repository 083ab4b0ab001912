"""nfsd(8) with the stand-in worker: `python run_nfsd.py BEHAVIOUR OPTIONS...`."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from nfsd_master.nfsd import main

STANDIN = str(Path(__file__).with_name("standin.py"))


def worker(slot: int) -> list[str]:
    return [sys.executable, STANDIN, "--slot", str(slot), "--behaviour", sys.argv[1]]


sys.exit(main(sys.argv[2:], worker=worker))
