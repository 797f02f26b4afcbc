"""The bundled models that commands and classes use if no other model is named."""

DEFAULT_SEGMENTER = "plug-small"
DEFAULT_ASSISTANT = "aura-small"
