"""Writing annotation files."""

from amodal.data.writers.convert import TARGETS, Conversion, convert
from amodal.data.writers.generated import object_record, write_canonical

__all__ = ["TARGETS", "Conversion", "convert", "object_record", "write_canonical"]
