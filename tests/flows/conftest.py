"""Makes ``toy.py`` importable, here and for stages that are named as ``toy:function``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
