"""PLUG: image and visible boxes to visible and amodal masks."""

from amodal.models.plug.configuration import PlugConfig
from amodal.models.plug.modeling import PlugModel, PlugOutput
from amodal.models.plug.processing import PlugProcessor

__all__ = ["PlugConfig", "PlugModel", "PlugOutput", "PlugProcessor"]
