"""AURA: image and question to an answer with visible and amodal masks."""

from amodal.models.aura.configuration import AuraConfig
from amodal.models.aura.heads import AuraOutput, MaskOutput
from amodal.models.aura.modeling import AuraModel
from amodal.models.aura.processing import AuraProcessor

__all__ = ["AuraConfig", "AuraModel", "AuraOutput", "AuraProcessor", "MaskOutput"]
