"""Write the JSON Schemas: `python -m nilr.results docs/schemas`."""

from __future__ import annotations

import sys
from pathlib import Path

from nilr.results.result import write_schemas

write_schemas(Path(sys.argv[1]))
