"""The pretrained language models of FlagAI's model module: GLM, BERT, GPT-2 and T5.

Importing this package costs nothing: every room is imported by its own path,
for instance ``from flagai.model.glm_model import GLMModel``.
"""

import sys

from flagai.absent import AbsentModules

__version__ = "0.1.0"

sys.meta_path.append(AbsentModules())
