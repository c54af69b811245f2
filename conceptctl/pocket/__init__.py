"""The bundled base: its world, how it was trained, its weights, and the judge of its pictures."""

from conceptctl.pocket.bundle import base_folder, clip_folder, load_judge
from conceptctl.pocket.world.concepts import Concept, concept, sequence, write_folders

__all__ = ["Concept", "base_folder", "clip_folder", "concept", "load_judge", "sequence", "write_folders"]
