"""The processes of a run. Whoever imports from here has megatron-core imported the short way."""

from trainer.parallel.short_import import import_engines

import_engines()
